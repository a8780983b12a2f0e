"""Workers that come, die and come again, on a simulated Ray: every shard is made, and once only but for deaths."""

import math

import numpy as np
import pytest

from benchmarks.simulated_ray import Fate, RayActorError, Reference, SimulatedRay
from richsem_prep.executors.counters import Counters
from richsem_prep.executors.dispatch import LONGEST_REST_SECONDS, LOSSES, START_SECONDS, Crew, Dispatch
from richsem_prep.shard.progress import Failure, ShardResult
from richsem_schemas.cache.manifest import Environment, LabelsReceipt, ShardSummary
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import FileHash

SAMPLES = 8
FILE = FileHash(bytes=0, sha256="0" * 64)


class Made:
    """Work that is done at once; `failures` of shards come back in the place of results, in turn."""

    def __init__(self, failures=None):
        self.failures = failures or {}

    def describe(self):
        return None

    def text_bank(self, vocabulary, names):
        return None

    def make(self, shard):
        if self.failures.get(shard):
            return self.failures[shard].pop()
        summary = ShardSummary(shard=shard, samples=SAMPLES - 1, views=3, tar=FILE, index=FILE)
        environment = Environment(device="cpu", torch_threads=1, versions={})
        receipt = LabelsReceipt(summary=summary, seconds={}, spec_fingerprint="0" * 64, environment=environment)
        return ShardResult(receipt, quarantined=1, picture_bytes=0, seconds={})


class Simulation:
    def __init__(self, fate, *, workers, seed=0, failures=None, opened=None):
        self.ray = SimulatedRay(Made(failures), fate, workers=workers, rng=np.random.default_rng(seed))
        self.shown, self.actors, self.opened = [], [], opened
        self.hired_at = []
        for _ in range(workers):
            self.hire()

    def hire(self):
        self.hired_at.append(self.ray.now)
        actor = self.ray.remote()(object).remote()
        self.actors.append(actor)
        return actor

    def dismiss(self, actor):
        self.actors.remove(actor)
        self.ray.kill(actor)

    def open(self, actor):
        return self.opened(self.ray) if self.opened else actor.open.remote()

    def run(self, shards):
        clock = lambda: self.ray.now  # noqa: E731
        counters = Counters(self.ray, lambda progress: self.shown.append(progress), clock)
        crew = Crew(self.hire, self.open, self.dismiss)
        yield from Dispatch(self.ray, list(self.actors), crew, counters, clock, self.ray.sleep).run(shards)
        counters.last()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shards_to_live", [None, 20, 3])
def test_with_workers_dying_all_the_time_every_shard_is_made_once_but_for_deaths(seed, shards_to_live):
    fate = Fate(shards_to_live=shards_to_live, lost_at_start=0.2 if shards_to_live else 0.0)
    simulation = Simulation(fate, workers=20, seed=seed)
    ray = simulation.ray
    outcomes = list(simulation.run(range(300)))
    assert sorted(outcome.shard for outcome in outcomes) == list(range(300))
    assert all(outcome.result is not None for outcome in outcomes)
    assert ray.begun == {shard: 1 + ray.losses[shard] for shard in range(300)}
    assert (shards_to_live is None) == (not ray.losses.total())
    # Nobody is taken on but for somebody lost, and all places are filled again.
    assert ray.hired == 20 + ray.losses.total() + ray.lost_at_start - (20 - len(simulation.actors))
    assert len(simulation.actors) <= 20
    assert len(ray.living) == len(simulation.actors)
    # The bar ends with all that was made.
    assert (simulation.shown[-1].samples, simulation.shown[-1].views) == (300 * SAMPLES, 300 * 3)
    assert simulation.shown[-1].quarantined == 300
    # Work, starts after deaths and the last shards on few workers: far from one after the other.
    lost_starts = ray.losses.total() + ray.lost_at_start
    bound = (ray.busy_seconds + lost_starts * (fate.start_seconds + 4)) / 20 + 12 * fate.shard_seconds
    assert ray.now < bound


def test_the_bar_never_goes_back_when_workers_are_lost():
    simulation = Simulation(Fate(shards_to_live=4), workers=10)
    list(simulation.run(range(200)))
    samples = [progress.samples for progress in simulation.shown]
    assert samples == sorted(samples)


def test_a_shard_that_ends_every_worker_is_given_up_and_the_others_are_made():
    simulation = Simulation(Fate(poisoned=frozenset({7})), workers=4)
    outcomes = {outcome.shard: outcome for outcome in simulation.run(range(40))}
    assert len(outcomes) == 40
    assert [shard for shard, outcome in outcomes.items() if outcome.failure] == [7]
    assert "its worker was lost" in outcomes[7].failure.message
    assert simulation.ray.begun[7] == LOSSES


def test_a_failing_shard_is_tried_three_times_and_a_lasting_failure_once():
    failures = {
        3: [Failure("no", fatal=False)] * 9,
        4: [Failure("never", fatal=False, lasting=True)] * 9,
        5: [Failure("once", fatal=False)],
    }
    simulation = Simulation(Fate(), workers=4, failures=failures)
    outcomes = {outcome.shard: outcome for outcome in simulation.run(range(10))}
    assert {shard: outcome.failure.message for shard, outcome in outcomes.items() if outcome.failure} == {
        3: "no",
        4: "never",
    }
    assert [simulation.ray.begun[shard] for shard in (3, 4, 5, 6)] == [3, 1, 2, 1]


def test_a_fatal_failure_ends_the_run():
    simulation = Simulation(Fate(), workers=2, failures={1: [Failure("disk full", fatal=True)]})
    with pytest.raises(RichSemError, match="disk full"):
        list(simulation.run(range(4)))


def test_a_worker_without_a_place_holds_no_shard():
    """Such as the replacement of one whose node is gone for good; the driver used to wait for it for ever."""
    fate = Fate(shards_to_live=5, room=lambda now: now if now == 0 else math.inf)
    simulation = Simulation(fate, workers=8, seed=1)
    outcomes = list(simulation.run(range(20)))
    assert len(outcomes) == 20
    assert simulation.ray.losses.total()


def test_a_cluster_that_is_gone_for_good_ends_the_run_and_one_that_comes_back_does_not():
    gone = Simulation(Fate(shards_to_live=3, room=lambda now: now if now == 0 else math.inf), workers=2)
    with pytest.raises(RichSemError, match="all workers are gone, and no other could start within 600 s"):
        list(gone.run(range(100)))
    assert gone.ray.now > START_SECONDS
    back = Simulation(Fate(shards_to_live=3, room=lambda now: now if now == 0 else now + 500), workers=2)
    assert len(list(back.run(range(30)))) == 30


def test_places_of_workers_lost_at_the_start_rest_longer_and_longer_but_are_never_given_up():
    fate = Fate(shard_seconds=1000, start_seconds=1, lost_at_start=0.9)
    simulation = Simulation(fate, workers=10, seed=3)
    assert len(list(simulation.run(range(60)))) == 60
    # Without rests one start a second and place.
    assert simulation.ray.lost_at_start < 0.2 * simulation.ray.now


def test_workers_that_are_all_lost_at_the_start_end_the_run_soon():
    simulation = Simulation(Fate(start_seconds=5, lost_at_start=1.0), workers=3)
    with pytest.raises(RichSemError, match="workers can't start: of the last 9 none was ready for work"):
        list(simulation.run(range(5)))
    assert simulation.ray.now < 3 * (5 + LONGEST_REST_SECONDS)


def test_what_keeps_a_worker_from_opening_the_cache_is_told():
    failure = Failure("stale file handle", fatal=False)
    simulation = Simulation(Fate(), workers=2, opened=lambda ray: Reference(ray.now + 1, failure))
    with pytest.raises(RichSemError, match=r"workers can't start: .*stale file handle"):
        list(simulation.run(range(5)))
    fatal = Simulation(Fate(), workers=2, opened=lambda ray: Reference(ray.now, Failure("other weights", fatal=True)))
    with pytest.raises(RichSemError, match=r"^other weights$"):
        list(fatal.run(range(5)))


@pytest.mark.parametrize("workers", [5, 200])
def test_counters_are_asked_of_few_workers_at_a_time_but_of_all_in_turn(workers):
    simulation = Simulation(Fate(), workers=workers)
    asked = []
    for actor in simulation.actors:
        actor.progress.remote = lambda actor=actor: asked.append(actor) or Reference(simulation.ray.now)
    counters = Counters(simulation.ray, lambda _: None, lambda: simulation.ray.now)
    for _ in range(20):
        before = len(asked)
        counters.poll(simulation.actors)
        counters.poll(simulation.actors)
        assert len(asked) - before == min(workers, 16)
        simulation.ray.now += 0.5
    assert set(asked) == set(simulation.actors)


def test_a_lost_actor_that_is_asked_answers_nothing():
    simulation = Simulation(Fate(), workers=1)
    actor = simulation.actors[0]
    actor.progress.remote = lambda: Reference(simulation.ray.now, error=RayActorError("gone"))
    counters = Counters(simulation.ray, simulation.shown.append, lambda: simulation.ray.now)
    counters.poll([actor])
    simulation.ray.now += 1
    counters.poll([actor])
    assert not simulation.shown
