"""The flow: from the facts about one app to its next status and everything that is to be published for it. Pure.

Each stage returns the plan changed; `waiting` in it says that the next stage is not due yet. What was published
and is not touched stays published: an app that runs goes on while an image of it is fetched anew.
"""

from __future__ import annotations

from msgspec.structs import replace

from pillar.cmd.zedmanager.activate import do_activate, do_inactivate, do_inactivate_halt, must_halt
from pillar.cmd.zedmanager.changes import config_errors, new_status, take_config
from pillar.cmd.zedmanager.facts import Facts, Plan, Problem, Published, Wait
from pillar.cmd.zedmanager.images import current_images, outgoing_images
from pillar.cmd.zedmanager.install import do_install, do_uninstall
from pillar.cmd.zedmanager.prepare import do_prepare, do_unprepare
from pillar.cmd.zedmanager.report import report
from pillar.types.common import UUIDandVersion
from pillar.types.enums import Inprogress
from pillar.types.zedmanager import AppInstanceConfig, AppInstanceStatus


def decide(facts: Facts) -> Plan:
    """What becomes of one app now. Never raises, whatever the tables say; decided again, nothing changes."""
    if facts.config is not None:
        errors = config_errors(facts.key, facts.config)
        plan = do_refuse(facts, facts.config, errors) if errors else drop_images(facts, do_update(facts, facts.config))
        plan = remember_purge(facts, plan, facts.config)
    elif facts.config_known:
        plan = do_remove(facts)
    else:
        return Plan(status=facts.status, wants=facts.published)
    return report(facts, plan)


def do_update(facts: Facts, config: AppInstanceConfig) -> Plan:
    """An app as its config wants it: doInstall, a restart or purge if one is due, doPrepare, doActivate."""
    plan = do_install(facts, take_config(facts, config))
    if must_halt(facts, plan, config):  # which needs neither images nor network
        halting = do_inactivate_halt(facts, replace(plan, waiting=None))
        if halting.waiting is not None:
            return halting
        plan = replace(halting, waiting=plan.waiting)
        if plan.app.RestartInprogress == Inprogress.BRING_DOWN:
            plan = plan.noting(RestartInprogress=Inprogress.BRING_UP)
    if plan.waiting is not None:
        return plan
    if plan.app.PurgeInprogress in (Inprogress.DOWNLOAD, Inprogress.BRING_DOWN):
        plan = do_purge(facts, plan)
        if plan.waiting is not None:
            return plan
    plan = do_prepare(facts, plan, config)
    if plan.waiting is not None:
        return plan
    plan = do_activate(facts, plan, config)
    if plan.waiting is None and plan.app.PurgeInprogress == Inprogress.BRING_UP:
        plan = do_purge_finish(plan)
    return plan


def do_purge(facts: Facts, plan: Plan) -> Plan:
    """The new images are here: take down domain (with its disks), network and EIDs, so that they come up anew."""
    plan = plan.noting(PurgeInprogress=Inprogress.BRING_DOWN)
    plan = do_inactivate(facts, plan, purge=True)
    if plan.waiting is not None:
        return plan
    plan = do_unprepare(plan)
    if facts.eids:
        return plan.waiting_for(Wait(source="EIDStatus", text="identitymanager to drop the EIDs"))
    return plan.noting(PurgeInprogress=Inprogress.BRING_UP)


def do_purge_finish(plan: Plan) -> Plan:
    """The new domain is there: the images of the old one are needed no more."""
    return plan.noting(PurgeInprogress=Inprogress.NONE, StorageStatusList=current_images(plan.app))


def drop_images(facts: Facts, plan: Plan) -> Plan:
    """Without any domain, images that a purge will drop are needed no more, however far the purge is."""
    if facts.domain is not None or plan.wants.domain is not None or not outgoing_images(plan.app):
        return plan
    return plan.noting(StorageStatusList=current_images(plan.app))


def remember_purge(facts: Facts, plan: Plan, config: AppInstanceConfig) -> Plan:
    """Keep, over reboots, which purge was carried out last; while one is under way, the one before."""
    last = facts.published.purge_counter
    if last is not None and plan.app.PurgeInprogress != Inprogress.NONE:
        return plan
    return plan.wanting(purge_counter=plan.app.PurgeCmd.Counter)


def do_refuse(facts: Facts, config: AppInstanceConfig, errors: tuple[str, ...]) -> Plan:
    """A config that cannot be acted on: say why, and leave everything as it is until it is mended."""
    status = facts.status or new_status(facts.key, config, facts.published.purge_counter)
    problem = Problem(source="AppInstanceConfig", text="\n\n".join(errors))
    waiting = Wait(source="AppInstanceConfig", text="a config without errors", patience_s=0)
    return Plan(status=status, wants=facts.published, problems=(problem,), waiting=waiting)


def do_remove(facts: Facts) -> Plan:
    """An app whose config is gone: doInactivate, doUnprepare, doUninstall, each when the one before is done."""
    if facts.status is None and facts.published == Published():
        return Plan(status=None, wants=Published())
    blank = AppInstanceStatus(UUIDandVersion=UUIDandVersion(UUID=facts.key))  # its status was lost, its configs not
    status = replace(facts.status or blank, RestartInprogress=Inprogress.NONE, PurgeInprogress=Inprogress.NONE)
    plan = Plan(status=status, wants=replace(facts.published, purge_counter=None))
    plan = do_inactivate(facts, plan)
    if plan.waiting is not None:
        return plan
    return do_uninstall(do_unprepare(plan))
