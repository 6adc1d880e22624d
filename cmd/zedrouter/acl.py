"""Access rules: what is wrong with them on this instance, and which port maps they ask for. Pure."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pillar.netplan.rules import Action, judge, protocol_name
from pillar.types.enums import NetworkInstanceType
from pillar.types.networkinstance import NetworkInstanceStatus
from pillar.types.zedrouter import ACE


class PortMap(NamedTuple):
    """A port of the device that leads to a guest."""

    protocol: str
    lport: int

    def __str__(self) -> str:
        return f"{self.protocol} port {self.lport}"


def rule_errors(rules: Iterable[ACE] | None, instance: NetworkInstanceStatus, guest_has_address: bool) -> list[str]:
    """What is wrong with the rules of one vif on this instance, one text per mistake, each naming its rule."""
    found = []
    rules = tuple(rules or ())
    if rules and instance.Type == NetworkInstanceType.SWITCH and len(instance.IfNameList or ()) != 1:
        found.append("rules on a switch need exactly one uplink, and this switch has none")
    for judged in map(judge, rules):
        errors = list(judged.errors)
        if judged.action is Action.PORT_MAP:
            if instance.Type == NetworkInstanceType.SWITCH:
                errors.append("no port map on a switch: its guests have no address here")
            elif not guest_has_address:
                errors.append("a port map needs a guest with an address")
        found += [f"{judged.label}: {error}" for error in errors]
    return found


def port_maps(rules: Iterable[ACE] | None) -> Iterator[PortMap]:
    """The port maps that the rules ask for; one that is wrong asks for none (see `rule_errors`)."""
    mapping = (rule for rule in rules or () if any(action.PortMap for action in rule.Actions or ()))
    for judged in map(judge, mapping):  # every app looks at every other's: the many other rules are not judged for it
        if judged.action is Action.PORT_MAP and not judged.errors and judged.protocol is not None:
            yield PortMap(protocol_name(judged.protocol), judged.ports["lport"][0])
