"""The central index: away, busy, silent, slow, refusing us, rejecting a study, and somebody else at its address."""

from __future__ import annotations

import itertools
import ssl
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.certificates import make_certificate
from tests.faults.case import CONCURRENCY, Case, MakeCase
from tests.faults.proxy import Proxy
from tests.indexer import KEY, wait_until
from tests.pacs import Pacs, new_uid
from tests.ports import free_port
from tests.receiver import ACCEPT_AND_RESET, HANG, RESET, UNAUTHORIZED_WITH_200, Answer, Entry, Receiver

#: How long each trouble lasts: the pauses between the tries have grown to seconds by then.
SECONDS = 1.0

#: For who waits for an index that is silent.
PATIENCE = {"delivery": {"timeout_seconds": 1}}

AWAY = "the central index is away"
HELD = "held: nothing is sent until this is mended"
BACK = "the central index accepts studies again"


def trouble(case: Case, answer: Answer, *, said: str, seconds: float = SECONDS) -> list[Entry]:
    """Under load, the index gives this answer to everything for a while. Returns the requests that got it."""
    with case.load() as load:
        case.at_work(load)
        before = len(case.receiver.sent())
        case.receiver.always(answer)
        case.fault()
        case.says(said)
        time.sleep(seconds)
        case.receiver.normal()
        got = [entry for entry in case.receiver.sent()[before:] if not entry.accepted]
        case.says(BACK)
    case.loaded(load)
    return got


def lost_answers(case: Case, line: Proxy) -> None:
    """What was taken without our learning of it is sent again: a handful at first, then one probe a time."""
    unheard = line.undelivered
    assert unheard <= CONCURRENCY + 12, f"{unheard} were sent to an index that doesn't answer"
    case.bound += unheard


def tried(entries: list[Entry]) -> int:
    """How many requests were sent after those that were in flight when it began."""
    return max(0, len(entries) - CONCURRENCY)


# Away


def test_it_refuses_connections(case: Case) -> None:
    case.start()
    with case.load() as load:
        case.at_work(load)
        for _ in range(3):
            case.receiver.refuse()
            case.fault(repeats=CONCURRENCY)  # the connections that were open are reset
            case.says(AWAY)
            time.sleep(SECONDS / 2)
            case.receiver.listen()
            time.sleep(0.2)
    case.loaded(load)
    case.finish()
    assert case.parked == set()


def test_it_is_not_there_when_the_service_starts(case: Case) -> None:
    """`run` waits for it, and says so."""
    case.receiver.refuse()
    case.fault()
    case.store(5)
    case.indexer.start()
    case.says("can't be reached (Connection refused)")
    case.receiver.listen()
    case.finish()


def test_it_takes_requests_and_never_answers(pacs: Pacs, make_case: MakeCase) -> None:
    case = make_case(pacs, **PATIENCE)
    case.start()
    got = trouble(case, HANG, said="doesn't answer in time", seconds=1.5)
    assert tried(got) <= 4
    case.finish()


def test_it_answers_slowly(case: Case) -> None:
    """More senders than one are at work then; nothing is repeated."""
    case.start()
    case.receiver.always(Answer(delay_seconds=0.2))
    case.fault()
    with case.load() as load:
        time.sleep(2)
    case.loaded(load)
    case.receiver.normal()
    case.finish()
    together = max(
        sum(1 for other in case.receiver.accepted() if other.time <= entry.time < (other.ended_at or 0))
        for entry in case.receiver.accepted()
    )
    assert 4 <= together <= CONCURRENCY


def _resets(case: Case) -> int:
    return sum(entry.status is None for entry in case.receiver.sent())


def _answered(case: Case) -> int:
    return sum(entry.answered for entry in case.receiver.sent())


def test_it_resets_connections(case: Case) -> None:
    """Whether it had taken the study or not: the study goes again, with its old key."""
    case.start()
    with case.load() as load:
        for round_ in range(5):
            case.receiver.next(2, RESET)
            case.receiver.next(1, ACCEPT_AND_RESET)
            case.fault(2)
            case.fault(repeats=1)
            # A reset at rest is tried once more in silence: "away" is said only if that fails too.
            wait_until(lambda r=round_: _resets(case) >= 2 * (r + 1), what="resets")  # type: ignore[misc]
            answered = _answered(case)
            wait_until(lambda n=answered: _answered(case) > n + 2, what="an answer again")  # type: ignore[misc]
    case.loaded(load)
    case.finish()
    times = [entry.idempotency_key for entry in case.receiver.accepted()]
    assert len(times) > len(set(times)), "none of the answers was lost"


# Busy


def _number(_: Entry) -> Answer:
    return Answer(429, headers={"Retry-After": "1"})


def _date(_: Entry) -> Answer:
    # The form has whole seconds only: this is between 1 and 2 from now.
    return Answer(429, headers={"Retry-After": formatdate(time.time() + 2, usegmt=True)})


@pytest.mark.parametrize("answer", [_number, _date])
def test_it_asks_us_to_come_later(case: Case, answer: Callable[[Entry], Answer]) -> None:
    """429 with Retry-After, as a number and as a date: nobody tries earlier."""
    case.start()
    with case.load() as load:
        case.at_work(load)
        case.receiver.answer_with(answer)
        case.fault()
        case.says(AWAY)
        time.sleep(3.5)
        case.receiver.normal()
        case.says(BACK)
    case.loaded(load)
    refused = [entry.time for entry in case.receiver.sent() if entry.status == 429]
    # Those that were in flight together, then one at a time.
    first, *later = [moment for moment in refused if moment - refused[0] > 0.5] or [0.0]
    assert first - refused[0] >= 0.95
    assert all(right - left >= 0.95 for left, right in itertools.pairwise([first, *later]))
    assert sum(1 for moment in refused if moment - refused[0] <= 0.5) <= CONCURRENCY
    case.finish()
    assert case.parked == set()


@pytest.mark.parametrize("status", [500, 503])
def test_it_fails_on_everything_for_a_while(pacs: Pacs, make_case: MakeCase, status: int) -> None:
    """Though the time to give up is over many times: it is no study's fault."""
    case = make_case(pacs, delivery={"give_up_seconds": 0.2})
    case.start()
    got = trouble(case, Answer(status, {"detail": "out of order"}), said=AWAY)
    # Each study is tried for itself until it is seen that all fail; then one probe at a time.
    assert len(got) < 60
    case.finish()
    assert case.parked == set()


# Refusing us


@pytest.mark.parametrize(
    "answer",
    [
        UNAUTHORIZED_WITH_200,
        Answer(200, {"status": "ERROR", "detail": "?"}),
        Answer(403, {"detail": "NÚÑEZ^MARÍA"}),
        Answer(404, b"nothing here"),
        Answer(405, b""),
    ],
    ids=lambda answer: str(answer.status),
)
def test_it_refuses_every_study_for_a_while(case: Case, answer: Answer) -> None:
    """Nothing is parked, nothing is lost, one at a time tries."""
    case.start()
    got = trouble(case, answer, said=HELD)
    assert tried(got) <= 12
    case.finish()
    assert case.parked == set()


@pytest.mark.parametrize("bad_key", [Answer(401, b""), UNAUTHORIZED_WITH_200], ids=["401", "200 Error"])
def test_the_key_is_wrong_until_config_json_is_corrected(case: Case, bad_key: Answer) -> None:
    """Nobody restarts the service or sends it a signal."""
    case.start()
    case.store(5)
    case.arrives(case.committed)
    case.receiver.bad_key = bad_key
    case.receiver.key = "the-new-key-of-this-centre"
    case.fault()
    with case.load() as load:
        case.says(HELD)
        time.sleep(SECONDS)
        # Half a file first, as an editor may leave it for a moment.
        (case.indexer.directory / "config.json").write_text('{"key": "the-new')
        case.says("the old settings stay in force")
        case.indexer.settings["key"] = case.receiver.key
        case.indexer.write_files()
        case.says(BACK)
    case.loaded(load)
    case.finish()
    assert case.parked == set()
    assert KEY not in case.indexer.log


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_never_follows_a_redirect(case: Case, status: int) -> None:
    """302 to another host, which would take the key and the patients."""
    with Receiver(KEY) as elsewhere:
        case.receiver.always(Answer(status, b"", headers={"Location": elsewhere.url}))
        case.fault()
        case.start()
        case.store(3)
        case.says(HELD)
        case.says("which would carry the key to another address")
        time.sleep(0.3)
        assert elsewhere.entries() == []
        # A person finds that the index has moved.
        case.receiver.refuse()
        case.indexer.settings["webservice_url"] = elsewhere.url
        case.indexer.write_files()
        elsewhere.wait_for(lambda _: set(case.committed) <= set(elsewhere.study_iuids()))
        case.receiver = elsewhere
        case.finish()
    assert case.parked == set()


def test_the_address_is_wrong_until_config_json_is_corrected(case: Case) -> None:
    """Nobody answers there, which looks as if the index were away."""
    good = case.receiver.url
    case.indexer.settings["webservice_url"] = good.replace(str(case.receiver.port), str(free_port()))
    case.indexer.write_files()
    case.fault()
    case.start()
    case.store(5)
    case.says(AWAY)
    case.indexer.settings["webservice_url"] = good
    case.indexer.write_files()
    case.says(BACK)
    case.finish()
    assert case.parked == set()


# Its certificate


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Receiver, ssl.SSLContext, Path]]:
    """An index with an expired certificate, its side of TLS, and where its next certificate and key lie."""
    expired = make_certificate(tmp_path / "expired", valid_days=0)
    renewed = make_certificate(tmp_path / "renewed")
    # Both authorities are trusted: what is wrong is the date, and nothing else.
    (tmp_path / "authorities.pem").write_bytes(expired.ca.read_bytes() + renewed.ca.read_bytes())
    context = expired.server_context()
    with Receiver(KEY, tls=context) as receiver:
        yield receiver, context, tmp_path


def test_its_certificate_has_expired_and_is_renewed(
    pacs: Pacs, make_case: MakeCase, secure: tuple[Receiver, ssl.SSLContext, Path]
) -> None:
    receiver, context, directory = secure
    case = make_case(pacs, url=receiver.url, delivery={"ca": str(directory / "authorities.pem")})
    case.receiver = receiver
    case.fault()
    case.start()
    case.store(5)
    case.says("certificate has expired")
    case.says(HELD)
    assert receiver.sent() == []
    context.load_cert_chain(directory / "renewed/cert.pem", directory / "renewed/key.pem")
    case.says(BACK)
    case.finish()
    assert case.parked == set()


def test_its_certificate_is_not_trusted_until_its_authority_is_named(
    pacs: Pacs, make_case: MakeCase, secure: tuple[Receiver, ssl.SSLContext, Path]
) -> None:
    receiver, context, directory = secure
    context.load_cert_chain(directory / "renewed/cert.pem", directory / "renewed/key.pem")
    case = make_case(pacs, url=receiver.url)
    case.receiver = receiver
    case.fault()
    case.start()
    case.store(5)
    case.says("can't be trusted")
    case.says(HELD)
    assert receiver.sent() == []
    case.indexer.settings["delivery"]["ca"] = str(directory / "renewed/ca.pem")
    case.indexer.write_files()
    case.says(BACK)
    case.finish()
    assert case.parked == set()


# One study


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_it_rejects_one_study(case: Case, status: int) -> None:
    """That one is parked at once, the others go on; somebody mends the index and has it sent again."""
    case.start()
    rejected = new_uid()
    case.receiver.for_studies([rejected], Answer(status, {"detail": "NÚÑEZ^MARÍA is no name"}))
    with case.load() as load:
        case.committed.append(rejected)
        case.pacs.store_study(rejected)
        case.fault()
        wait_until(lambda: case.parked == {rejected}, what="the parked study")
        case.store(5)
        case.arrives(case.committed[1:])
    case.loaded(load)
    listed = case.indexer.run("parked", "list")
    assert rejected in listed.stdout
    assert str(status) in listed.stdout
    assert "is no name" not in listed.stdout
    case.receiver.normal()
    assert case.indexer.run("parked", "retry", "--all").returncode == 0
    wait_until(lambda: not case.parked, what="an empty parked store")
    case.finish()


def test_it_fails_on_one_study_for_ever(pacs: Pacs, make_case: MakeCase) -> None:
    """Parked after give_up_seconds, though it is never said what is wrong with it; the others don't wait for it."""
    case = make_case(pacs, delivery={"give_up_seconds": 2})
    case.start()
    case.store(5)
    case.arrives(case.committed)
    began = time.monotonic()
    (culprit,) = case.store()
    case.receiver.for_studies([culprit], Answer(500, b"a stack trace"))
    # It may have been there before the rule; then it is its next version that fails.
    ((study_pk,),) = pacs.execute("SELECT pk FROM study WHERE study_iuid = %s", (culprit,))
    pacs.update_counts(study_pk, 1, 40, "CT")
    case.fault()
    with case.load() as load:
        wait_until(lambda: case.parked == {culprit}, 20, "the parked study")
        assert time.monotonic() - began >= 2
    case.loaded(load)
    assert load.committed
    case.arrives(load.committed)
    assert AWAY not in case.indexer.log
    case.receiver.normal()
    retried = case.indexer.run("parked", "retry", "--all")
    assert retried.returncode == 0, retried.stderr
    wait_until(lambda: not case.parked, what="an empty parked store")
    case.finish()


def test_an_odd_study_and_a_dead_index_together(pacs: Pacs, make_case: MakeCase) -> None:
    """Only time in which others are accepted counts: an outage of any length is no fault of a study."""
    case = make_case(pacs, delivery={"give_up_seconds": 1})
    case.start()
    case.receiver.always(Answer(502, b""))
    case.fault()
    stored = case.store(12)
    case.says(AWAY)
    time.sleep(2.5)
    case.receiver.normal()
    case.arrives(stored)
    case.finish()
    assert case.parked == set()


def test_a_409_for_a_later_version_is_visible(case: Case) -> None:
    """For a first version it is there already; a correction that the index won't take must not vanish."""
    case.start()
    (known,) = case.store()
    case.arrives(case.committed)
    case.receiver.for_studies([known], Answer(409, {"detail": "exists"}))
    ((study_pk,),) = case.pacs.execute("SELECT pk FROM study WHERE study_iuid = %s", (known,))
    case.pacs.update_counts(study_pk, 1, 7, "CT")
    case.fault()
    wait_until(lambda: case.parked == {known}, what="the parked correction")
    case.receiver.normal()
    assert case.indexer.run("parked", "retry", "--all").returncode == 0
    wait_until(lambda: not case.parked, what="an empty parked store")
    case.finish()


def test_a_409_for_a_first_version_is_as_good_as_an_acceptance(case: Case) -> None:
    case.start()
    case.receiver.always(Answer(409, {"detail": "exists"}))
    case.fault()
    # Complete at once, so that there is no later version.
    stored = case.pacs.store_studies(3)
    wait_until(
        lambda: sum(entry.method == "POST" for entry in case.receiver.sent()) == 3, what="three requests"
    )
    case.receiver.normal()
    case.maybe += stored
    case.store(3)
    case.arrives(case.committed)
    time.sleep(1)
    assert not set(stored) & (case.accepted_uids | case.parked)
    assert case.indexer.stop() == 0


# The line


@pytest.fixture
def on_a_line(
    pacs: Pacs, make_case: MakeCase, receiver: Receiver, proxied: Callable[[int], Proxy]
) -> Iterator[tuple[Case, Proxy]]:
    line = proxied(receiver.port)
    case = make_case(pacs, url=receiver.url.replace(str(receiver.port), str(line.port)), **PATIENCE)
    case.start()
    yield case, line


def test_the_line_is_cut_again_and_again(on_a_line: tuple[Case, Proxy]) -> None:
    case, line = on_a_line
    with case.load() as load:
        for _ in range(8):
            time.sleep(0.25)
            line.cut()
            case.fault(repeats=CONCURRENCY)
    case.loaded(load)
    case.finish()


@pytest.mark.parametrize("after_bytes", [0, 9, 40, 80])
def test_answers_end_in_their_middle(on_a_line: tuple[Case, Proxy], after_bytes: int) -> None:
    """In the status line, in a header, in the body: half an answer is none."""
    case, line = on_a_line
    with case.load() as load:
        case.at_work(load)
        line.truncate(after_bytes)
        case.fault()
        case.says(AWAY)
        time.sleep(0.4)
        line.normal()
        lost_answers(case, line)
        case.says(BACK)
    case.loaded(load)
    case.finish()


def test_the_line_stalls_half_open(on_a_line: tuple[Case, Proxy]) -> None:
    case, line = on_a_line
    with case.load() as load:
        case.at_work(load)
        line.stall()
        case.fault()
        case.says("doesn't answer in time")
        time.sleep(SECONDS)
        # What was held back on the way is gone with its connection.
        line.cut()
        lost_answers(case, line)
        line.normal()
        case.says(BACK)
    case.loaded(load)
    case.finish()


def test_a_slow_line(on_a_line: tuple[Case, Proxy]) -> None:
    case, line = on_a_line
    line.delay(0.1)
    case.fault()
    with case.load() as load:
        time.sleep(2)
    case.loaded(load)
    case.finish()


def test_somebody_else_answers_at_its_address(case: Case, proxied: Callable[[int], Proxy]) -> None:
    """The line ends at the database, which greets in its own language: that is not HTTP, and nobody took the study."""
    line = proxied(case.receiver.port)
    case.indexer.settings["webservice_url"] = case.receiver.url.replace(
        str(case.receiver.port), str(line.port)
    )
    case.indexer.write_files()
    line.target_port = case.server.port
    case.fault()
    case.start()
    case.store(5)
    case.says(AWAY)
    time.sleep(0.5)
    line.target_port = case.receiver.port
    line.cut()
    case.finish()


def test_answers_of_every_kind(case: Case) -> None:
    """Every status, and bodies that are no JSON, deep JSON, or large: settled, parked or tried again."""
    bodies = [
        b"",
        b"\xff\xfe",
        b"[" * 30_000,
        b"x" * 300_000,
        {"status": ["Error"]},
        {"status": None},
        b"null",
    ]
    statuses = [*range(400, 409), *range(410, 430), 451, 499, *range(500, 512), 520, 599]
    answers = [Answer(200, body) for body in bodies]
    answers += [Answer(status, body) for status, body in zip(statuses, itertools.cycle(bodies), strict=False)]
    case.committed += case.pacs.store_studies(len(answers) * 3)
    # Which others are parked is a matter of time: what is rejected before the index was seen to work is tried once more.
    rejected = case.committed[-1]
    case.receiver.for_studies([rejected], Answer(422))
    for answer in answers:
        case.receiver.next(1, answer)
        # One success ends what a failure began, so that the pauses stay short.
        case.receiver.next(1, Answer(201))
    case.fault(len(answers))
    # What is no JSON comes from somebody else, once JSON was seen: it is sent again, though this receiver has taken it.
    case.bound += 3
    case.start()
    case.finish()
    assert rejected in case.parked
    assert len(case.parked) < len(answers)
    assert case.indexer.run("parked", "list").stdout.count("2.25.") == len(case.parked)
