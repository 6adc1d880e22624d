"""What an app's status says, whatever the flow did: what is seen of network and domain, the state, the error. Pure.

Errors are collected from every table each time, so a later stage's error is never wiped by an earlier stage,
and always have a source and a time; the time does not move while the error stays the same.
"""

from __future__ import annotations

from msgspec.structs import replace

from pillar.cmd.zedmanager.domain import is_pending, is_up, place_disks
from pillar.cmd.zedmanager.facts import Facts, Plan, Problem
from pillar.cmd.zedmanager.images import current_images, minimum_state
from pillar.types.enums import Inprogress, SwState
from pillar.types.scalars import ZERO_TIME, is_zero
from pillar.types.zedmanager import AppInstanceStatus


def report(facts: Facts, plan: Plan) -> Plan:
    """Complete the plan's status. An app that is forgotten has nothing more to say."""
    if plan.status is None:
        return plan
    plan = see_network(facts, plan)
    plan = see_domain(facts, plan)
    plan = plan.noting(State=app_state(facts, plan))
    return show_errors(facts, plan)


def see_network(facts: Facts, plan: Plan) -> Plan:
    """Copy what zedrouter gave the app, and its error."""
    network = facts.network
    if network is None:
        return plan.noting(OverlayNetworks=None, UnderlayNetworks=None)
    if network.Error:
        plan = plan.blaming(Problem(source="AppNetworkStatus", text=network.Error, time=network.ErrorTime))
    return plan.noting(OverlayNetworks=network.OverlayNetworkList, UnderlayNetworks=network.UnderlayNetworkList)


def see_domain(facts: Facts, plan: Plan) -> Plan:
    """Copy what domainmgr says of the domain, and its error, unless that is of a life that is being ended."""
    domain = facts.domain
    wanted = plan.wants.domain
    activated = domain is not None and domain.Activated
    asked = (wanted is not None and wanted.Activate) or (plan.wants.network is not None and plan.wants.network.Activate)
    plan = plan.noting(Activated=activated, ActivateInprogress=asked and not activated)
    if domain is None:
        return plan
    if domain.LastErr and not (_is_bringing_down(plan.app) and not is_up(domain)):
        plan = plan.blaming(Problem(source="DomainStatus", text=domain.LastErr, time=domain.LastErrTime))
    images = plan.app.StorageStatusList or ()
    if wanted is not None:
        for i, (vdev, file) in place_disks(images, domain).items():
            images = (*images[:i], replace(images[i], Vdev=vdev, ActiveFileLocation=file), *images[i + 1 :])
    return plan.noting(
        DomainName=domain.DomainName,
        BootTime=domain.BootTime,
        StorageStatusList=images if plan.app.StorageStatusList is not None else None,
    )


def app_state(facts: Facts, plan: Plan) -> SwState:
    """The state that EVE's controller shows."""
    app, domain = plan.app, facts.domain
    if facts.config is None:
        alive = domain is not None and (is_up(domain) or is_pending(domain)) and domain.State != SwState.HALTED
        return SwState.HALTING if alive else SwState.HALTED
    if app.PurgeInprogress != Inprogress.NONE:
        return SwState.PURGING
    if app.RestartInprogress != Inprogress.NONE:
        return SwState.RESTARTING
    if domain is not None and domain.State >= SwState.BOOTING and not domain.PendingDelete:
        return domain.State
    if plan.prepared or plan.wants.domain is not None:
        return SwState.INSTALLED
    if any(problem.source == "AppInstanceConfig" for problem in plan.problems):
        return app.State  # as it was when its config was refused
    return minimum_state(current_images(app))


def show_errors(facts: Facts, plan: Plan) -> Plan:
    """Error, ErrorSource and ErrorTime; of several errors the last one's source and time, as in EVE."""
    problems = plan.problems
    if not problems and facts.overdue and plan.waiting is not None:
        problems = (Problem(source=plan.waiting.source, text=f"no answer yet: waiting for {plan.waiting.text}"),)
    if not problems:
        return plan.noting(Error="", ErrorSource="", ErrorTime=ZERO_TIME)
    error = "\n\n".join(dict.fromkeys(problem.text for problem in problems))
    source = problems[-1].source
    before = facts.status
    if before is not None and (before.Error, before.ErrorSource) == (error, source) and not is_zero(before.ErrorTime):
        return plan.noting(Error=error, ErrorSource=source, ErrorTime=before.ErrorTime)
    time = problems[-1].time
    return plan.noting(Error=error, ErrorSource=source, ErrorTime=facts.now if is_zero(time) else time)


def _is_bringing_down(app: AppInstanceStatus) -> bool:
    return Inprogress.BRING_DOWN in (app.RestartInprogress, app.PurgeInprogress)
