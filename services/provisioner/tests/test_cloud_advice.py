"""Where machines are asked for, by what the provider says of zones and by what failed before: real bus and database."""

from __future__ import annotations

import asyncio

from incl_provisioner.app import create_app
from incl_provisioner.cloud import advising
from incl_provisioner.domain.cloud.cooldowns import CooldownBook, Target
from incl_provisioner.domain.cloud.errors import Meaning, Scope, Verdict
from incl_provisioner.domain.cloud.zones import Advice
from incl_provisioner.testing.site import MACHINE, Begin, Site
from incl_shared.events.experiments import AttemptAssigned
from incl_shared.queries.provisioner import PlanExperiment, PlanView
from incl_shared.testing.wait import until

ZONES = ("us-central1-a", "us-central1-b", "us-central1-c")
GOOD = "us-central1-b"


def _say(site: Site, best: str = GOOD) -> None:
    for zone in ZONES:
        site.cloud.switches.advice(zone, obtainability=0.95 if zone == best else 0.2, uptime=36_000)


async def _plan(site: Site, **spec: object) -> PlanView:
    values = {"command": ["true"], "instance": MACHINE, **spec}
    return await site.platform.client.ask(PlanExperiment(spec=values), project="default", user="ann")


def _asked(site: Site) -> int:
    return site.cloud.faults.calls["advice.capacity"]


async def _open(site: Site) -> None:
    loop = site.platform.app.reconciler._cloud
    assert loop is not None
    await until(lambda: loop.plans is not None, 15, what="the cloud is open")


async def test_machines_are_asked_for_where_the_provider_says_that_it_has_them(begin: Begin) -> None:
    site = await begin(regions=(), zones=ZONES)
    _say(site)
    for number in (1, 2):
        experiment = await site.submit(nodes=2, spot=True)
        assigned: AttemptAssigned = await site.platform.event(experiment, AttemptAssigned)
        assert assigned.machines is not None
        assert assigned.machines.zone == GOOD
        assert _asked(site) == len(ZONES), f"kept for a while, not asked again for experiment {number}"


async def test_a_dry_run_shows_it(begin: Begin) -> None:
    site = await begin(regions=(), zones=ZONES)
    await _open(site)
    _say(site, "us-central1-c")
    view = await _plan(site)
    assert view.zones[0].zone == "us-central1-c"
    assert "obtainability 0.95" in view.zones[0].why
    assert all("obtainability" in zone.why for zone in view.zones)
    await _plan(site)
    assert _asked(site) == len(ZONES)


async def test_advice_that_fails_is_no_advice_and_is_left_alone(begin: Begin) -> None:
    site = await begin(regions=(), zones=ZONES)
    await _open(site)
    site.cloud.switches.deny("compute.advice.*")
    view = await _plan(site)
    assert all("no advice" in zone.why for zone in view.zones)
    refused = _asked(site)
    experiment = await site.submit()
    assert (await site.platform.finished(experiment)).attempts == 1
    assert _asked(site) == refused, "not asked again"


async def test_advice_that_does_not_come_holds_nothing_up_for_long(begin: Begin) -> None:
    site = await begin(regions=(), zones=ZONES)
    await _open(site)
    site.cloud.switches.fault(kind="hang", method="advice.capacity", times=None)
    loop = asyncio.get_running_loop()
    began = loop.time()
    experiment = await site.submit()
    await site.platform.finished(experiment)
    assert loop.time() - began < advising.PATIENCE_S + 10.0


async def test_it_can_be_switched_off(begin: Begin) -> None:
    site = await begin(regions=(), zones=ZONES, advice=False)
    experiment = await site.submit()
    await site.platform.finished(experiment)
    assert _asked(site) == 0


async def test_what_is_left_alone_is_so_after_a_restart(begin: Begin) -> None:
    site = await begin(regions=(), zones=ZONES)
    site.cloud.switches.stockout("us-central1-*")
    experiment = await site.submit()
    await until(lambda: any("3 of 3 zones wait" in reason for reason in site.waits(experiment)), 15)
    await site.platform.ask_stop(experiment)
    await site.platform.finished(experiment)
    await site.until_empty()
    await site.platform.app.stop()
    site.cloud.switches.clear()
    site.platform.app = create_app(site.platform.settings, compute=site.vms.compute)
    await site.platform.app.start()
    await _open(site)
    view = await _plan(site)
    assert all(zone.wait_s for zone in view.zones), "each rests still"
    assert all(zone.wait_s is not None and zone.wait_s <= 3600 for zone in view.zones)


async def test_what_has_come_to_work_rests_no_more_after_a_restart_either(begin: Begin) -> None:
    site = await begin(regions=(), zones=("us-central1-a",))
    loop = site.platform.app.reconciler._cloud
    assert loop is not None
    await _open(site)
    verdict = Verdict(Meaning.NEXT_ZONE, Scope.ZONE, 1.0, "stockout", "no such machine free now", "")
    loop.met.cooldowns.failed(Target("us-central1-a", MACHINE, False), verdict, loop.met.clock.now())
    experiment = await site.submit()
    await site.platform.finished(experiment)
    await until(lambda: not list(loop.met.cooldowns), 15, what="its machine to be seen at work")
    await site.settle(experiment)
    await site.until_empty()
    await site.platform.app.stop()
    site.platform.app = create_app(site.platform.settings, compute=site.vms.compute)
    await site.platform.app.start()
    await _open(site)
    again = site.platform.app.reconciler._cloud
    assert again is not None
    assert list(again.met.cooldowns) == []


def test_the_book_of_advice() -> None:
    book = advising.AdviceBook()
    here, there = Target("z-a", "m", True), Target("z-b", "m", True)
    book.note(here, 3, Advice(0.5), 0.0)
    book.note(there, 3, None, 0.0)
    assert book.known(4, 1.0) == {here: Advice(0.5)}, "for three is for four"
    assert book.known(5, 1.0) == {}
    assert book.asked(there, 4, 1.0)
    assert not book.asked(there, 5, 1.0)
    assert not book.asked(here, 3, advising.KEPT_S + 1)
    assert book.known(3, advising.KEPT_S + 1) == {}


def test_a_cooldown_is_known_by_place_machine_and_kind() -> None:
    book = CooldownBook()
    verdict = Verdict(Meaning.NEXT_ZONE, Scope.ZONE, 60.0, "stockout", "none free", "")
    book.failed(Target("z-a", "m", True), verdict, 0.0)
    again = CooldownBook(known=list(book))
    assert again.cooled(Target("z-a", "m", True), 1.0) is not None
    assert again.cooled(Target("z-a", "m", False), 1.0) is None
