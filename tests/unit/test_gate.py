"""Who is to blame: the study, the central index, or nobody yet. The clock is the tests' own."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_indexer.flow.gate import ACCEPTED_LATELY_SECONDS, Gatekeeper
from cdc_indexer.flow.verdict import Do, Gate, Verdict
from cdc_indexer.model.outcome import Kind, Outcome, Refusal

ACCEPTED = Outcome(Kind.ACCEPTED, 201)
THERE = Outcome(Kind.ALREADY_THERE, 409)
STALE = Outcome(Kind.STALE, 409, version=7)
REJECTED = Outcome(Kind.REJECTED, 400, reason="bad")
FAILED = Outcome(Kind.RETRY_STUDY, 500, reason="failing")
SILENT = Outcome(Kind.RETRY_INDEX, reason="nobody there")
BUSY = Outcome(Kind.RETRY_INDEX, 429, retry_after_seconds=9.0, reason="busy")
REFUSED = Outcome(Kind.HELD, 403, reason="another key", refusal=Refusal.KEY)
LOST = Outcome(Kind.HELD, 404, reason="no such address", refusal=Refusal.ADDRESS)
ABSENT = Outcome(Kind.ABSENT, 404, reason="nothing there", refusal=Refusal.ADDRESS)
WORKS = Outcome(Kind.ACCEPTED, 200, "[]")
BROKEN = Outcome(Kind.REJECTED, 400)

GIVE_UP_SECONDS = 3600.0


class World:
    """A gatekeeper, a clock, and what is to be done with each study."""

    def __init__(self, concurrency: int = 8) -> None:
        self.now = 1000.0
        self.keeper = Gatekeeper(GIVE_UP_SECONDS, concurrency, random.Random(1))

    @property
    def gate(self) -> Gate:
        return self.keeper.gate

    def post(
        self, key: str, outcome: Outcome, *, asked: Outcome | None = None, seconds: float = 0.01
    ) -> Verdict:
        """A request that takes so long; the question, if there is one, is answered by ``asked``."""
        began = self.now
        self.now += seconds
        verdict = self.keeper.judge(key, outcome, began=began, now=self.now)
        if verdict.do is Do.ASK and asked is not None:
            verdict = self.keeper.judge(key, outcome, began=began, now=self.now, asked=asked)
        return verdict

    def odd(self, key: str, outcome: Outcome) -> None:
        """Lets a study become known as one on which alone the index fails."""
        self.post(key, outcome)
        self.now += 0.01
        self.post("good", ACCEPTED)
        assert self.post(key, outcome).do is Do.RETRY


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("outcome", [ACCEPTED, THERE])
def test_what_is_there_is_done_with(world: World, outcome: Outcome) -> None:
    assert world.post("a", outcome) == Verdict(Do.SETTLE)


def test_what_the_index_has_newer_is_read_again_and_shows_that_it_works(world: World) -> None:
    assert world.post("a", STALE) == Verdict(Do.READ_AGAIN)
    assert world.post("b", REJECTED).do is Do.PARK


def test_a_version_too_far_ahead_is_never_parked(world: World) -> None:
    far = Outcome(Kind.HELD, 409, reason="a hundred years", refusal=Refusal.OTHER)
    world.odd("a", far)
    for _ in range(10):
        world.now += GIVE_UP_SECONDS / 4
        world.post("good", ACCEPTED)
        assert world.post("a", far).do in (Do.RETRY, Do.WAIT)
    world.odd("b", REFUSED)
    world.now += GIVE_UP_SECONDS
    world.post("good", ACCEPTED)
    assert world.post("b", REFUSED).do is Do.PARK


# --- rejections ------------------------------------------------------------------------------------------


def test_a_rejection_is_the_studys_own_while_others_are_accepted(world: World) -> None:
    world.post("good", ACCEPTED)
    world.now += ACCEPTED_LATELY_SECONDS - 1
    for number in range(20):
        assert world.post(str(number), REJECTED, seconds=0.0).do is Do.PARK
    assert world.gate is Gate.OPEN


def test_without_that_a_get_is_evidence_for_three_in_a_row_and_no_more(world: World) -> None:
    verdicts = [world.post(str(number), REJECTED, asked=WORKS) for number in range(5)]
    assert [verdict.do for verdict in verdicts] == [Do.PARK] * 3 + [Do.WAIT] * 2
    assert world.gate is Gate.HELD
    change = verdicts[3].change
    assert change is not None
    assert change.refusal is Refusal.REJECTS_ALL
    assert change.unpark_seconds >= ACCEPTED_LATELY_SECONDS
    # "In a row": one that is accepted begins anew.
    world.post("good", ACCEPTED)
    world.now += ACCEPTED_LATELY_SECONDS + 1
    assert [world.post(str(number), REJECTED, asked=WORKS).do for number in range(4)][-2:] == [
        Do.PARK,
        Do.WAIT,
    ]


@pytest.mark.parametrize("said", [BROKEN, FAILED, SILENT, REFUSED, LOST])
def test_a_gateway_that_rejects_everything_parks_nothing(world: World, said: Outcome) -> None:
    """Item 30: nginx with "The SSL certificate error" to GET and POST alike."""
    for number in range(200):
        assert world.post(str(number), REJECTED, asked=said).do is Do.WAIT
    assert world.gate is Gate.HELD


def test_the_first_question_is_asked_before_anything_is_decided(world: World) -> None:
    assert world.post("a", REJECTED) == Verdict(Do.ASK)
    assert world.gate is Gate.OPEN


def test_what_was_parked_before_a_hold_is_named(world: World) -> None:
    """It began to reject everything a second after the last acceptance; a quiet night lies in between."""
    world.post("good", ACCEPTED)
    world.now += 30
    assert world.post("a", REJECTED).do is Do.PARK
    world.now += 8 * 3600
    change = world.post("b", REJECTED, asked=BROKEN).change
    assert change is not None
    assert change.unpark_seconds > 8 * 3600
    assert change.unpark_seconds < 9 * 3600


def test_one_that_is_accepted_ends_it_and_the_odd_one_is_parked(world: World) -> None:
    assert world.post("odd", REJECTED, asked=BROKEN).do is Do.WAIT
    verdict = world.post("good", ACCEPTED)
    assert verdict.change is not None
    assert verdict.change.gate is Gate.OPEN
    assert world.post("odd", REJECTED).do is Do.PARK


CLOSES = pytest.mark.parametrize(
    ("outcome", "asked"), [(REJECTED, BROKEN), (SILENT, None), (BUSY, None), (REFUSED, None)]
)


@CLOSES
def test_a_get_that_is_answered_again_lets_a_lonely_odd_study_be_parked(
    world: World, outcome: Outcome, asked: Outcome | None
) -> None:
    """After one more POST, for the first one may have been rejected by what stood in the index's place."""
    world.post("good", ACCEPTED)
    world.now += ACCEPTED_LATELY_SECONDS + 1
    assert world.post("odd", outcome, asked=asked).change is not None
    world.now = max(world.now, world.keeper.try_at("odd"))
    # It stays closed: nothing is known yet.
    assert world.post("odd", REJECTED, asked=WORKS) == Verdict(Do.WAIT)
    assert world.keeper.choose(["new", "odd"]) == 1
    assert world.keeper.try_at("odd") <= world.now
    verdict = world.post("odd", REJECTED, asked=WORKS)
    assert verdict.do is Do.PARK
    assert world.gate is Gate.OPEN


@CLOSES
def test_a_gateway_that_recovers_between_a_post_and_its_get_parks_nothing(
    world: World, outcome: Outcome, asked: Outcome | None
) -> None:
    world.post("a", outcome, asked=asked)
    for _ in range(20):
        world.now = max(world.now, world.keeper.try_at("a"))
        assert world.post("a", REJECTED, asked=BROKEN).do is Do.WAIT
        # It works for a moment, each time when it is asked.
        assert world.post("a", REJECTED, asked=WORKS).do is Do.WAIT
    verdict = world.post("a", ACCEPTED)
    assert verdict.do is Do.SETTLE
    assert verdict.change is not None


def test_a_rejection_that_is_older_than_an_outages_end_is_tried_once_more(world: World) -> None:
    """Its answer comes after another study was accepted."""
    began = world.now
    world.post("a", REJECTED, asked=BROKEN)
    world.post("a", ACCEPTED)
    assert world.keeper.judge("b", REJECTED, began=began, now=world.now) == Verdict(Do.WAIT)
    assert world.keeper.goes_alone("b")
    assert world.post("b", REJECTED).do is Do.PARK


def test_of_two_in_one_request_the_odd_one_is_parked_at_once(world: World) -> None:
    """Whatever was before it: what is accepted is as old."""
    world.post("a", REFUSED)
    began = world.now
    assert world.keeper.judge("good", ACCEPTED, began=began, now=began + 1).do is Do.SETTLE
    assert world.keeper.judge("odd", REJECTED, began=began, now=began + 1).do is Do.PARK


def test_an_acceptance_from_before_an_outage_is_no_evidence_after_it(world: World) -> None:
    world.post("good", ACCEPTED)
    world.post("a", SILENT)
    for number in range(3):
        assert world.post(str(number), REJECTED, asked=BROKEN).do is Do.WAIT
    assert world.post("3", REJECTED, asked=WORKS).do is Do.WAIT
    verdicts = [world.post(str(number), REJECTED, asked=WORKS).do for number in (3, 4, 5, 6)]
    assert verdicts == [Do.PARK] * 3 + [Do.WAIT]


def test_an_odd_study_beside_one_that_is_failed_on_is_parked_after_three_posts(world: World) -> None:
    """The other mustn't be tried in between, for that closes the gate anew: both would go on for ever."""
    world.odd("fails", FAILED)
    world.now += ACCEPTED_LATELY_SECONDS + 1
    world.post("fails", FAILED)
    waiting, tried = ["fails", "odd"], []
    while "odd" in waiting:
        key = waiting[world.keeper.choose(waiting)]
        tried.append(key)
        world.now = max(world.now, world.keeper.try_at(key))
        verdict = world.post(key, REJECTED if key == "odd" else FAILED, asked=WORKS)
        if verdict.do is Do.PARK:
            waiting.remove(key)
        assert len(tried) < 10
    assert tried == ["odd", "odd"]


def test_what_is_tried_once_more_does_not_wait_for_the_pauses_of_others(world: World) -> None:
    for _ in range(8):
        world.post("a", SILENT)
        world.now = max(world.now, world.keeper.try_at("a"))
    world.post("a", SILENT)
    assert world.post("new", REJECTED, asked=WORKS).do is Do.WAIT
    assert world.keeper.try_at("new") <= world.now < world.keeper.try_at("a")


def test_what_is_tried_once_more_waits_as_long_as_the_index_said(world: World) -> None:
    """A request from before that is judged after it."""
    began = world.now
    world.post("a", BUSY)
    verdict = world.keeper.judge("b", REJECTED, began=began, now=world.now, asked=WORKS)
    assert verdict == Verdict(Do.WAIT)
    assert world.keeper.try_at("b") >= world.now + 8


@pytest.mark.parametrize("said", [LOST, Outcome(Kind.HELD, 405, refusal=Refusal.ADDRESS), SILENT])
def test_a_deletion_that_finds_nothing_at_a_wrong_address_waits(world: World, said: Outcome) -> None:
    assert world.post("gone", ABSENT) == Verdict(Do.ASK)
    assert world.post("gone", ABSENT, asked=said).do is Do.WAIT
    assert world.gate is Gate.HELD
    world.post("good", ACCEPTED)
    world.post("other", LOST)
    assert world.post("gone", ABSENT, asked=said).do is Do.WAIT
    # The address may have been mended after the DELETE and before the GET.
    assert world.post("gone", ABSENT, asked=WORKS) == Verdict(Do.WAIT)
    verdict = world.post("gone", ABSENT, asked=WORKS)
    assert verdict.do is Do.SETTLE
    assert verdict.change is not None
    assert verdict.change.gate is Gate.OPEN


def test_a_deletion_that_finds_nothing_is_done_where_the_index_is_seen_to_work(world: World) -> None:
    """Also where it doesn't know GET."""
    assert world.post("a", ABSENT) == Verdict(Do.ASK)
    assert world.post("a", ABSENT, asked=WORKS) == Verdict(Do.SETTLE)
    world.post("good", ACCEPTED)
    assert world.post("b", ABSENT) == Verdict(Do.SETTLE)


# --- failing on one, failing on all ----------------------------------------------------------------------


def test_an_index_that_fails_on_everything_is_away_with_a_single_study(world: World) -> None:
    """Item 4: a small centre has no eight studies waiting."""
    began = world.now
    verdict = world.post("only", FAILED)
    while world.gate is Gate.OPEN:
        assert verdict.do is Do.RETRY
        assert world.now - began < 10
        world.now = max(world.now, verdict.at)
        verdict = world.post("only", FAILED)
    assert verdict.change is not None
    assert verdict.change.gate is Gate.AWAY


def test_an_index_that_fails_on_as_many_as_are_under_way_is_away_at_once(world: World) -> None:
    for number in range(7):
        world.post(str(number), FAILED)
    assert world.gate is Gate.OPEN
    change = world.post("7", FAILED).change
    assert change is not None
    assert change.gate is Gate.AWAY


@pytest.mark.parametrize("outcome", [SILENT, BUSY, REFUSED, LOST])
def test_what_is_said_of_all_closes_at_once(world: World, outcome: Outcome) -> None:
    verdict = world.post("a", outcome)
    assert verdict.do is Do.WAIT
    assert world.gate is (Gate.HELD if outcome.kind is Kind.HELD else Gate.AWAY)
    assert verdict.change is not None
    assert verdict.change.reason == outcome.reason


@pytest.mark.parametrize("outcome", [FAILED, SILENT, REFUSED, LOST])
def test_odd_studies_hold_up_nobody_and_are_parked_by_wall_time(world: World, outcome: Outcome) -> None:
    """Item 5: 12 studies that fail alone, beside live ones."""
    odd = [f"odd{number}" for number in range(12)]
    for key in odd:
        world.odd(key, outcome)
    began = world.now
    at = dict.fromkeys(odd, world.now)
    parked: dict[str, float] = {}
    while len(parked) < len(odd):
        assert world.now - began < GIVE_UP_SECONDS + 60
        world.post("live", ACCEPTED)
        world.now += 5
        for key in odd:
            if key in parked or at[key] > world.now:
                continue
            verdict = world.post(key, outcome)
            assert world.gate is Gate.OPEN
            if verdict.do is Do.PARK:
                parked[key] = world.now
            else:
                assert verdict.do is Do.RETRY
                at[key] = verdict.at
    assert min(parked.values()) - began >= GIVE_UP_SECONDS - 1


def test_a_lonely_odd_study_at_night_is_said_and_holds_up_no_live_one(world: World) -> None:
    """5xx for all that is tried is the index away, be it a single study; a new one is tried at once."""
    world.odd("odd", FAILED)
    world.now += ACCEPTED_LATELY_SECONDS + 1
    for _ in range(20):
        assert world.post("odd", FAILED).do is Do.WAIT
        assert world.gate is Gate.AWAY
        world.now = world.keeper.try_at("odd")
    world.post("odd", FAILED)
    assert world.keeper.choose(["odd", "live"]) == 1
    assert world.keeper.try_at("live") <= world.now < world.keeper.try_at("odd")
    world.post("live", ACCEPTED)
    assert world.gate is Gate.OPEN


@pytest.mark.parametrize("outage", [SILENT, FAILED, REFUSED])
def test_an_outage_is_no_fault_of_a_study(world: World, outage: Outcome) -> None:
    """Also of one that had failed alone shortly before it, as all do when an index dies slowly."""
    for key in "abc":
        world.odd(key, FAILED)
    world.post("new", outage)
    while world.gate is Gate.OPEN:
        world.now += 1
        world.post("new", outage)
    for _ in range(100):
        world.now += 600
        for key in ("a", "b", "c", "new"):
            assert world.post(key, outage).do is Do.WAIT
    world.post("new", ACCEPTED)
    for key in "abc":
        assert world.post(key, FAILED).do is Do.RETRY


def test_a_reply_that_was_on_its_way_when_the_index_died_proves_nothing(world: World) -> None:
    """The last acceptances of an index that dies come after the first failures; their requests began before."""
    began = world.now
    world.post("a", FAILED)
    world.keeper.judge("b", ACCEPTED, began=began - 0.01, now=world.now + 0.01)
    while world.gate is Gate.OPEN:
        world.now += 1
        assert world.now - began < 10
        world.post("a", FAILED)


def test_a_failure_of_many_is_no_failure_of_each(world: World) -> None:
    for key in "abc":
        verdict = world.keeper.judge(key, FAILED, began=1000, now=1001, together=True)
        assert verdict == Verdict(Do.WAIT)
        assert world.keeper.goes_alone(key)
    assert world.gate is Gate.OPEN


# --- while it is closed ----------------------------------------------------------------------------------


def test_the_tries_take_turns(world: World) -> None:
    """Item 5: three studies with 403 mustn't hold the others."""
    waiting = ["odd1", "odd2", "odd3", "fine"]
    for key in waiting[:3]:
        world.post(key, REFUSED)
    tried = []
    while world.gate is not Gate.OPEN:
        key = waiting[world.keeper.choose(waiting)]
        tried.append(key)
        world.now = max(world.now, world.keeper.try_at(key))
        world.post(key, ACCEPTED if key == "fine" else REFUSED)
    assert tried == ["fine"]
    world.post("fine", LOST)
    tried = []
    for _ in range(8):
        key = waiting[world.keeper.choose(waiting)]
        tried.append(key)
        world.post(key, REFUSED)
    assert tried == ["odd1", "odd2", "odd3", "fine"] * 2


def test_many_answers_of_one_outage_are_one_step_of_the_pause(world: World) -> None:
    """Eight refusals that were in flight together: the pause is that of the first."""
    for key in "abcdefgh":
        world.keeper.judge(key, SILENT, began=999.0, now=1000.0)
    first = world.keeper.try_at("a")
    assert first <= 1000.1
    world.now = first
    world.post("a", SILENT)
    assert world.keeper.try_at("a") != first


def test_the_index_says_when_it_is_to_be_asked_again(world: World) -> None:
    for _ in range(2):
        world.post("a", BUSY)
        for key in ("a", "new"):
            assert world.keeper.try_at(key) >= world.now + 9
        world.now += 10


def test_another_reason_is_told_once(world: World) -> None:
    assert world.post("a", REFUSED).change is not None
    assert world.post("a", REFUSED).change is None
    change = world.post("a", LOST).change
    assert change is not None
    assert change.refusal is Refusal.ADDRESS


def test_what_was_mended_is_tried_at_once(world: World) -> None:
    for _ in range(10):
        world.post("a", REFUSED)
    world.keeper.mended()
    assert world.keeper.try_at("a") <= world.now


# --- whatever happens ------------------------------------------------------------------------------------

OUTCOMES = [ACCEPTED, THERE, STALE, REJECTED, FAILED, SILENT, BUSY, REFUSED, LOST]
KEYS = ["a", "b", "c", "d"]
steps = st.lists(
    st.tuples(
        st.sampled_from(KEYS),
        st.sampled_from(OUTCOMES),
        st.sampled_from([None, WORKS, BROKEN, SILENT]),
        st.sampled_from([0.0, 0.1, 5.0, 61.0, 4000.0]),
        st.sampled_from([0.0, 0.01, 8.0]),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_whatever_happens(course: list[tuple[str, Outcome, Outcome | None, float, float]]) -> None:
    world = World(concurrency=3)
    accepted_at: float | None = None
    closed_since = False
    in_a_row = 0
    for key, outcome, asked, pause, seconds in course:
        world.now += pause
        verdict = world.post(key, outcome, asked=asked, seconds=seconds)
        lately = accepted_at is not None and world.now - accepted_at <= ACCEPTED_LATELY_SECONDS
        lately = lately and not closed_since
        if outcome.kind in (Kind.ACCEPTED, Kind.ALREADY_THERE, Kind.STALE):
            accepted_at, closed_since, in_a_row = world.now, False, 0
            assert world.gate is Gate.OPEN
            assert verdict.do is (Do.READ_AGAIN if outcome.kind is Kind.STALE else Do.SETTLE)
        elif outcome.kind is Kind.REJECTED:
            if verdict.do is Do.PARK and not lately:
                in_a_row += 1
                assert asked is WORKS
                assert in_a_row <= 3
            assert not (lately and verdict.do is not Do.PARK)
        else:
            assert verdict.do in (Do.WAIT, Do.RETRY, Do.PARK)
            if verdict.do is Do.PARK:
                assert accepted_at is not None
                assert world.now - accepted_at >= 0
        if verdict.do is Do.RETRY:
            assert world.gate is Gate.OPEN
            assert world.now <= verdict.at <= world.now + 30
        if verdict.do in (Do.SETTLE, Do.PARK, Do.READ_AGAIN):
            assert not world.keeper.goes_alone(key), "it is forgotten"
        if verdict.change is not None:
            assert verdict.change.gate is world.gate
            assert bool(verdict.change.reason) is (world.gate is not Gate.OPEN)
            assert bool(verdict.change.unpark_seconds) is (world.gate is Gate.HELD)
        closed_since = closed_since or world.gate is not Gate.OPEN


@settings(max_examples=100, deadline=None)
@given(steps, st.sampled_from([FAILED, SILENT, REFUSED, LOST, REJECTED]))
def test_an_index_that_takes_nothing_more_is_said_to_within_two_minutes(
    course: list[tuple[str, Outcome, Outcome | None, float, float]], outcome: Outcome
) -> None:
    """Whatever was seen before, and be it with a single study."""
    world = World()
    for key, before, asked, pause, seconds in course:
        world.now += pause
        world.post(key, before, asked=asked, seconds=seconds)
    began = world.now
    at = began
    while world.gate is Gate.OPEN:
        assert world.now - began < 120
        world.now = max(world.now + 0.01, at)
        verdict = world.post("only", outcome, asked=BROKEN)
        at = verdict.at
        if verdict.do is Do.PARK:
            at = world.now + 10


@settings(max_examples=100, deadline=None)
@given(steps, st.sampled_from([FAILED, SILENT, REFUSED, LOST]))
def test_an_index_that_takes_all_but_one_again_is_open(
    course: list[tuple[str, Outcome, Outcome | None, float, float]], outcome: Outcome
) -> None:
    """And a live study waits for no more than a moment, whatever the odd one does."""
    world = World()
    for key, before, asked, pause, seconds in course:
        world.now += pause
        world.post(key, before, asked=asked, seconds=seconds)
    waiting = ["odd", "live"]
    for _ in range(4):
        world.now += 100
        while world.gate is not Gate.OPEN:
            key = waiting[world.keeper.choose(waiting)]
            world.now = max(world.now, world.keeper.try_at(key))
            world.post(key, ACCEPTED if key == "live" else outcome)
        world.post("live", ACCEPTED)
        world.post("odd", outcome)
    assert world.post("odd", outcome).do in (Do.RETRY, Do.PARK)
    assert world.gate is Gate.OPEN


def test_the_same_seed_gives_the_same(world: World) -> None:
    def course() -> list[Verdict]:
        other = World()
        rng = random.Random(7)
        return [other.post(rng.choice(KEYS), rng.choice(OUTCOMES), asked=WORKS) for _ in range(200)]

    assert course() == course()
