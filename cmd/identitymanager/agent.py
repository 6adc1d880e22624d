"""The shell of identitymanager: tables and work around the decision in decide.py."""

from pillar.agent import Agent
from pillar.clocks import RetryClock
from pillar.cmd.identitymanager.decide import Facts, Made, step
from pillar.cmd.identitymanager.make import make
from pillar.keyqueue import KeyQueue
from pillar.types.eid import EIDConfig, EIDStatus
from pillar.types.eid_error import EIDError
from pillar.types.scalars import now
from pillar.workers import Outcome, Workers

RETRY_CAP_S = 60.0  # between two tries while the machine refuses


class IdentityManager(Agent):
    """Give ECOs their LISP identities: EIDConfig in, EIDStatus out."""

    name = "identitymanager"

    def start(self) -> None:
        self.directory = self.where.persist / "identitymanager"
        self.workers = Workers(self.loop, 1)
        self.queue = KeyQueue(self.loop, self.look_at, self.log)
        self._made: dict[str, Made] = {}
        self._changed: set[str] = set()  # keys whose configuration is another one since the last look
        self._retries = RetryClock()
        self.statuses = self.pubsub.publication(EIDStatus)
        self.errors = self.pubsub.publication(EIDError)
        self.configs = self.pubsub.subscription(
            "zedmanager",
            EIDConfig,
            create=lambda key, new: self.queue.mark(key),
            modify=self._config_changed,
            delete=lambda key, last: self.queue.mark(key),
            synchronized=self._mark_all,
        )
        for publication in (self.statuses, self.errors):
            publication.signal_restarted()

    def look_at(self, key: str) -> None:
        """Decide one EID's next move, publish it, start the work."""
        config = self.configs.get(key)
        facts = Facts(
            now=now(),
            synchronized=self.configs.is_synchronized,
            busy=self.workers.busy(key),
            made=self._made.get(key),
            retry_due=not self._retries.waiting(key),
        )
        error = None if key in self._changed else self.errors.get(key)  # another configuration, another chance
        decision = step(config, self.statuses.get(key), error, facts)
        if decision.forget:
            self._forget(key)  # first: the status says that there is something to forget
        if decision.status is None:
            self.statuses.unpublish(key)
        elif self.statuses.publish(key, decision.status) and not decision.status.PendingAdd:
            self.log.info("%s: EID %s", key, decision.status.EID)
        if decision.error is None:
            self.errors.unpublish(key)
        elif self.errors.publish(key, decision.error):
            self.log.error("%s: %s", key, decision.error.Error)
        self._made.pop(key, None)  # only now, as the next: if publishing failed, the next look needs them
        self._changed.discard(key)
        if decision.make and config is not None:
            self._start(key, config)
        elif decision.retry:
            self._look_later(key)
        elif not facts.busy:
            self._retries.forget(key)

    def _start(self, key: str, config: EIDConfig) -> None:
        def ended(outcome: Outcome[Made]) -> None:
            if outcome.error is not None:
                self.log.error("%s: making the identity failed", key, exc_info=outcome.error)
                self._made[key] = Made(config, error=f"{type(outcome.error).__name__}: {outcome.error}")
            elif outcome.ok:
                self._made[key] = outcome.value
            self.queue.mark(key)

        self.workers.submit(key, lambda cancel: make(self.directory, key, config), ended)

    def _look_later(self, key: str) -> None:
        if not self._retries.waiting(key):
            self.queue.mark_later(key, self._retries.failed(key, RETRY_CAP_S))

    def _forget(self, key: str) -> None:
        from pillar.cmd.identitymanager import store

        store.remove(self.directory, key)

    def _config_changed(self, key: str, new: EIDConfig, old: EIDConfig) -> None:
        self._changed.add(key)
        self.queue.mark(key)

    def _mark_all(self) -> None:
        for key in {*self.statuses.keys(), *self.errors.keys(), *self.configs.keys()}:
            self.queue.mark(key)
