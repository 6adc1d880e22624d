"""The supervisor: starts the agents of one root, keeps them running, and may be killed like any of them.

Publishes   SupervisorStatus  as pillar, keyed by agent      what it knows of each; also its own ledger
Owns        the agents' processes; of their files it reads <agent>.pid and <agent>.touch

    starting -> running -+-> waiting -> starting     it died or hung; back-off
                         +-> failed                  it died too often; another `pillar up` has it tried again
    any -> stopping -> stopped                       the supervisor was asked to end

Restart: agents do not notice that their supervisor died. The next one finds each by its pid file's lock, or
by pid and start time in the ledger when it was killed before it had a pid file, and watches it by pidfd. It
is not their parent then, so how an adopted agent ends is unknown to it.

An agent whose touch file does not change for `Limits.stale_s` is killed and started again. The supervisor
measures that on its own monotonic clock, so a step of the wall clock kills nobody.
"""
