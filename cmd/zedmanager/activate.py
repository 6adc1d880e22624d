"""do_activate: have the domain run (or, for an inactive app, its disks made); do_inactivate: the way back. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from pillar.cmd.zedmanager.domain import domain_config, is_down, is_pending, is_up
from pillar.cmd.zedmanager.facts import Facts, Plan, Wait
from pillar.cmd.zedmanager.prepare import network_pending
from pillar.types.enums import Inprogress, SwState
from pillar.types.zedmanager import AppInstanceConfig

_HALT_PATIENCE_S = 180.0  # a guest may take its time to shut down
_BOOT_PATIENCE_S = 300.0  # disks may have to be copied first


def do_activate(facts: Facts, plan: Plan, config: AppInstanceConfig) -> Plan:
    """Ask for the domain, running or (for an inactive app) with its disks only.

    A domain that is up keeps the config it was started with: changes wait for the next start.
    """
    published = facts.published.domain
    keeps = published is not None and published.Activate == config.Activate and _is_busy(facts)
    if not keeps:
        wanted, problems = domain_config(facts, plan.app, config)
        if wanted is None:
            source = problems[0].source
            return plan.blaming(*problems).waiting_for(Wait(source=source, text="usable images", patience_s=0))
        plan = plan.wanting(domain=wanted)
    domain = facts.domain
    if domain is None or domain.PendingDelete:
        return plan.waiting_for(Wait(source="DomainStatus", text="domainmgr to take up the domain"))
    if is_pending(domain) or (config.Activate and not (domain.Activated and domain.State >= SwState.BOOTING)):
        patience_s = 0 if domain.LastErr else _BOOT_PATIENCE_S
        return plan.waiting_for(Wait(source="DomainStatus", text="the domain to come up", patience_s=patience_s))
    return plan.noting(RestartInprogress=Inprogress.NONE)


def do_inactivate_halt(facts: Facts, plan: Plan) -> Plan:
    """Stop the domain and keep its disks and network: the app is inactive, or is being restarted."""
    if facts.published.domain is not None:
        plan = plan.wanting(domain=replace(facts.published.domain, Activate=False))
    if is_down(facts.domain):
        return plan
    return plan.waiting_for(Wait(source="DomainStatus", text="the domain to halt", patience_s=_HALT_PATIENCE_S))


def do_inactivate(facts: Facts, plan: Plan, *, purge: bool = False) -> Plan:
    """Remove the domain with its disks, and when it is gone the network.

    A purge takes the network down and keeps it, with its number and addresses; unless its networks are others now:
    zedrouter takes those only anew.
    """
    plan = plan.wanting(domain=None)
    if facts.domain is not None:
        wait = Wait(source="DomainStatus", text="domainmgr to remove the domain", patience_s=_HALT_PATIENCE_S)
        return plan.waiting_for(wait)
    published = facts.published.network
    if purge and published is not None and _same_networks(facts, plan):
        plan = plan.wanting(network=replace(published, Activate=False))
        down = facts.network is None or not (facts.network.Activated or network_pending(facts.network))
    else:
        plan = plan.wanting(network=None)
        down = facts.network is None
    return (
        plan if down else plan.waiting_for(Wait(source="AppNetworkStatus", text="zedrouter to take the network down"))
    )


def must_halt(facts: Facts, plan: Plan, config: AppInstanceConfig) -> bool:
    """Is there something running, or about to, that should not?"""
    if plan.app.RestartInprogress == Inprogress.BRING_DOWN:
        return True
    published = facts.published.domain
    return not config.Activate and published is not None and (published.Activate or not is_down(facts.domain))


def _is_busy(facts: Facts) -> bool:
    return facts.domain is not None and (is_up(facts.domain) or is_pending(facts.domain))


def _same_networks(facts: Facts, plan: Plan) -> bool:
    published = facts.published.network
    assert published is not None
    return len(published.OverlayNetworkList or ()) == len(plan.app.OverlayNetworkList or ()) and len(
        published.UnderlayNetworkList or ()
    ) == len(plan.app.UnderlayNetworkList or ())
