#!/usr/bin/env python3
"""An agent that survives kill -9 at every step: it pays each order once, whatever happens to it.

    payments_right.py ROOT

Reads `shop/Order` (what is to be paid), publishes `payments/Receipt` (what was paid), and keeps the money in
ROOT/persist/account, one line a payment. Paying has an effect that cannot be taken back, so it is made idempotent: each
line carries the order's key. The agent looks at the account before it pays; it never relies on what it remembers.
"""

import os
import sys
from pathlib import Path

import msgspec

from pillar.pubsub import PubSub


class Order(msgspec.Struct, frozen=True):
    """Written by the shop, keyed by order number."""

    payee: str = ""
    cents: int = 0


class Receipt(msgspec.Struct, frozen=True):
    """Written by us, keyed by order number."""

    payee: str = ""
    cents: int = 0
    paid: bool = False


def pay(account: Path, key: str, order: Order) -> None:
    """Write the payment into the account, unless it is there: a kill may have come between paying and telling."""
    done = account.read_text().splitlines() if account.exists() else []
    if any(line.split()[0] == key for line in done if line):
        return
    # The whole account is replaced by rename: a kill in the middle of an appended line would leave half a payment.
    staged = account.with_suffix(".new")
    with staged.open("w") as file:
        file.writelines(f"{line}\n" for line in [*done, f"{key} {order.cents} to {order.payee}"])
        file.flush()
        os.fsync(file.fileno())
    staged.rename(account)


def main() -> None:
    root = Path(sys.argv[1])
    account = root / "persist/account"
    account.parent.mkdir(parents=True, exist_ok=True)
    account.with_suffix(".new").unlink(missing_ok=True)  # what a kill may have left
    with PubSub(root, "payments") as pubsub:
        receipts = pubsub.publication(Receipt)

        def look_at(key: str, order: Order, *old: Order) -> None:
            receipts.publish(key, Receipt(order.payee, order.cents, paid=False))  # first say what is under way
            pay(account, key, order)
            receipts.publish(key, Receipt(order.payee, order.cents, paid=True))

        def tidy() -> None:
            """Every order is known now: a receipt without one is of an order that went away while we were dead."""
            for key in set(receipts.keys()) - set(orders.keys()):
                receipts.unpublish(key)

        orders = pubsub.subscription(
            "shop", Order, create=look_at, delete=lambda key, last: receipts.unpublish(key), synchronized=tidy
        )
        pubsub.run()


if __name__ == "__main__":
    main()
