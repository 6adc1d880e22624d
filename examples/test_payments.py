"""How a kill matrix looks as a test of one's own: `pytest examples`.

The right agent passes. Put `payments_wrong.py` in its place to see the failure, with the time line of each kill.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_every_order_is_paid_once_wherever_the_agent_is_killed(pillar_killmatrix):
    pillar_killmatrix([sys.executable, HERE / "payments_right.py", "{root}"], input=HERE / "orders")
