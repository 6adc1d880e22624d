#!/usr/bin/env python3
"""The same agent with the classic mistake: it acts before it publishes, and believes its own table about what it did.

    payments_wrong.py ROOT

If it is killed after the payment and before the receipt, it pays again when it is started again. No test that lets it
run through, and no test that stops it politely, ever shows that. `pillar killmatrix` does.
"""

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


def main() -> None:
    root = Path(sys.argv[1])
    account = root / "persist/account"
    account.parent.mkdir(parents=True, exist_ok=True)
    with PubSub(root, "payments") as pubsub:
        receipts = pubsub.publication(Receipt)

        def look_at(key: str, order: Order, *old: Order) -> None:
            if key in receipts:
                return  # paid already, or so we think
            with account.open("a") as file:
                file.write(f"{key} {order.cents} to {order.payee}\n")  # acts ...
            receipts.publish(key, Receipt(order.payee, order.cents, paid=True))  # ... before it publishes

        def tidy() -> None:
            for key in set(receipts.keys()) - set(orders.keys()):
                receipts.unpublish(key)

        orders = pubsub.subscription(
            "shop", Order, create=look_at, delete=lambda key, last: receipts.unpublish(key), synchronized=tidy
        )
        pubsub.run()


if __name__ == "__main__":
    main()
