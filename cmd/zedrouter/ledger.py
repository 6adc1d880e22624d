"""The persistent numbers: the decisions of `numbers` written down before anybody uses them."""

import logging
from collections.abc import Collection, Mapping

from pillar.cmd.zedrouter.numbers import double, grant, unused
from pillar.pubsub import Publication
from pillar.types.scalars import Uuid, now
from pillar.types.uuidtonum import UuidToNum


class Ledger:
    """zedrouter's UuidToNum table."""

    def __init__(self, table: Publication[UuidToNum], log: logging.Logger) -> None:
        self._table = table
        self._log = log
        self._records = table.items()

    def mend(self, held: Mapping[Uuid, int]) -> None:
        """At the start: of two records with one number only the rightful one stays."""
        for uuid in double(self._records, held):
            record = self._records[uuid]
            self._log.warning("%s: number %d is somebody else's too; it gets a new one", uuid, record.Number)
            self.free(uuid, record.NumType)

    def number(self, uuid: Uuid, num_type: str, held: Mapping[Uuid, int]) -> int:
        """The number of this UUID, on disk when this returns. Raises NoNumber, and PublishFailed from the disk."""
        given = grant(uuid, num_type, self._records, held, now())
        if given.give_up is not None:
            self._log.info("%s: number %d goes to %s, it was the oldest not in use", given.give_up, given.number, uuid)
            self.free(given.give_up, num_type)
        if given.record is not None:
            self._table.publish(uuid, given.record)
            self._records[uuid] = given.record
        return given.number

    def free(self, uuid: Uuid, num_type: str) -> None:
        """Nobody uses this number any more; the status that showed it must be gone.

        A record of the other kind (an app with the UUID of a network instance) stays.
        """
        record = self._records.get(uuid)
        if record is not None and record.NumType == num_type:
            self._table.unpublish(uuid)
            del self._records[uuid]

    def rest(self, users: Collection[Uuid]) -> None:
        """Mark the numbers of those who have neither config nor status as not in use; they stay theirs until needed."""
        for record in list(unused(self._records, users)):
            self._table.publish(record.UUID, record)
            self._records[record.UUID] = record

    def forget_absent(self, here: Collection[Uuid]) -> list[Uuid]:
        """Free the numbers of everyone not `here`; returns who that was."""
        absent = [record for uuid, record in self._records.items() if uuid not in here]
        for record in absent:
            self.free(record.UUID, record.NumType)
        return [record.UUID for record in absent]
