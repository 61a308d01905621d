"""Random faults on all sides at once, from a seed: the database, the central index, the lines to both, and the program."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.faults.case import CONCURRENCY, Case, tear
from tests.faults.proxy import Proxy
from tests.faults.test_server import reset, throw_out
from tests.indexer import wait_until
from tests.receiver import ACCEPT_AND_RESET, HANG, RESET, UNAUTHORIZED, UNAUTHORIZED_WITH_200, Answer

#: A fault begins, lasts for as long as the block, and is over.
Fault = Callable[[], "Iterator[None]"]


class Storm:
    """Faults for one case whose two legs are these lines; each step takes one fault from some of the sides.

    Attributes:
        injected: the names of the faults, in order, for who reads why a run failed.
    """

    def __init__(self, case: Case, database: Proxy, index: Proxy, rng: random.Random) -> None:
        self.case, self._database, self._index, self._rng = case, database, index, rng
        self.injected: list[str] = []
        self._sides: list[list[Fault]] = [
            [
                self._server_killed,
                self._server_restarted,
                self._log_purged,
                self._log_reset,
                self._thrown_out,
                self._wrong_password,
                self._database_line_cut,
                self._database_line_stalls,
                self._database_line_slow,
                self._database_line_refused,
            ],
            [
                self._index_refuses,
                self._index_answers_as_if_ill,
                self._index_resets,
                self._study_rejected,
                self._index_line_cut,
                self._index_line_stalls,
                self._index_line_slow,
                self._answers_end_in_their_middle,
            ],
            [
                self._killed,
                self._killed_with_a_torn_log,
                self._killed_at_a_failpoint,
                self._stopped,
                self._frozen,
                self._hang_up,
            ],
        ]

    def rage(self, seconds: float) -> None:
        """Steps of faults for so long; afterwards all is well, and the service runs."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sides = self._rng.sample(self._sides, self._rng.choice([1, 1, 2, 3]))
            with ExitStack() as over:
                for side in sides:
                    fault = self._rng.choice(side)
                    self.injected.append(fault.__name__.strip("_"))
                    self.case.fault()
                    over.enter_context(contextmanager(fault)())
                time.sleep(self._rng.uniform(0.1, 1.2))
            process = self.case.indexer.process
            assert process is not None
            assert process.poll() is None, f"it ended by itself:\n{self.case.indexer.log[-3000:]}"
            time.sleep(self._rng.uniform(0.1, 0.6))

    # --- the database ------------------------------------------------------------------------------------

    def _server_killed(self) -> Iterator[None]:
        self.case.server.kill()
        yield
        self.case.server.start()

    def _server_restarted(self) -> Iterator[None]:
        self.case.server.restart()
        yield

    def _log_purged(self) -> Iterator[None]:
        self.case.server.purge_binlogs()
        yield

    def _log_reset(self) -> Iterator[None]:
        reset(self.case.server)
        yield

    def _thrown_out(self) -> Iterator[None]:
        throw_out(self.case)
        yield

    def _wrong_password(self) -> Iterator[None]:
        account = f"'{self.case.pacs.user}'@'localhost'"
        self.case.server.execute(f"ALTER USER {account} IDENTIFIED BY 'another'")
        throw_out(self.case)
        yield
        self.case.server.execute(f"ALTER USER {account} IDENTIFIED BY '{self.case.pacs.password}'")

    def _database_line_cut(self) -> Iterator[None]:
        self._database.cut()
        yield

    def _database_line_stalls(self) -> Iterator[None]:
        self._database.stall()
        yield
        self._database.cut()
        self._database.normal()

    def _database_line_slow(self) -> Iterator[None]:
        self._database.delay(0.05)
        yield
        self._database.normal()

    def _database_line_refused(self) -> Iterator[None]:
        self._database.refuse()
        yield
        self._database.normal()

    # --- the central index -------------------------------------------------------------------------------

    def _index_refuses(self) -> Iterator[None]:
        self.case.receiver.refuse()
        self.case.bound += CONCURRENCY
        yield
        self.case.receiver.listen()

    def _index_answers_as_if_ill(self) -> Iterator[None]:
        self.case.receiver.always(
            self._rng.choice(
                [
                    HANG,
                    UNAUTHORIZED,
                    UNAUTHORIZED_WITH_200,
                    Answer(302, b"", headers={"Location": "http://127.0.0.1:1/"}),
                    Answer(404, b""),
                    Answer(429, headers={"Retry-After": "1"}),
                    Answer(500, b""),
                    Answer(503, headers={"Retry-After": "0"}),
                    Answer(delay_seconds=0.1),
                ]
            )
        )
        yield
        self.case.receiver.normal()

    def _index_resets(self) -> Iterator[None]:
        self.case.receiver.next(2, RESET)
        self.case.receiver.next(2, ACCEPT_AND_RESET)
        self.case.bound += 2
        yield

    def _study_rejected(self) -> Iterator[None]:
        self.case.receiver.next(1, Answer(400, {"detail": "no"}))
        yield

    def _index_line_cut(self) -> Iterator[None]:
        self._index.cut()
        self.case.bound += CONCURRENCY
        yield

    def _index_line_stalls(self) -> Iterator[None]:
        self._index.stall()
        self.case.bound += 2 * CONCURRENCY
        yield
        self._index.cut()
        self._index.normal()

    def _index_line_slow(self) -> Iterator[None]:
        self._index.delay(0.05)
        yield
        self._index.normal()

    def _answers_end_in_their_middle(self) -> Iterator[None]:
        before = len(self.case.receiver.accepted())
        self._index.truncate(self._rng.randint(0, 90))
        yield
        self._index.normal()
        # Nobody heard of those.
        self.case.bound += len(self.case.receiver.accepted()) - before + CONCURRENCY

    # --- the program -------------------------------------------------------------------------------------

    def _killed(self) -> Iterator[None]:
        self.case.kill()
        yield
        self.case.indexer.start()

    def _killed_with_a_torn_log(self) -> Iterator[None]:
        self.case.kill()
        log = self.case.indexer.state_dir / "state.sqlite-wal"
        if log.exists():
            tear(log, 50)
            # What was committed last may be lost with it.
            self.case.bound += CONCURRENCY
        yield
        self.case.indexer.start()

    def _killed_at_a_failpoint(self) -> Iterator[None]:
        self.case.kill()
        names = ("after_read", "before_post", "after_post", "before_commit", "after_commit")
        self.case.indexer.start(failpoint=f"{self._rng.choice(names)}:{self._rng.randint(1, 60)}")
        yield
        self.case.kill()
        self.case.indexer.start()

    def _stopped(self) -> Iterator[None]:
        """Stopped in an orderly way it repeats nothing."""
        self._takes_signals()
        assert self.case.indexer.stop() == 0, self.case.indexer.log[-3000:]
        yield
        self.case.indexer.start()

    def _frozen(self) -> Iterator[None]:
        process = self._takes_signals()
        process.send_signal(signal.SIGSTOP)
        yield
        process.send_signal(signal.SIGCONT)

    def _hang_up(self) -> Iterator[None]:
        self._takes_signals().send_signal(signal.SIGHUP)
        yield

    def _takes_signals(self) -> subprocess.Popen[bytes]:
        """Waits until the program has begun: in its first tenths of a second a signal just ends the interpreter."""
        process = self.case.indexer.process
        assert process is not None
        status = Path(f"/proc/{process.pid}/status")

        def blocked() -> bool:
            mask = int(status.read_text().partition("SigBlk:")[2].split()[0], 16)
            return bool(mask >> (signal.SIGHUP - 1) & 1)

        wait_until(blocked, what="a program that takes signals")
        return process


def on_two_lines(case: Case, database: Proxy, index: Proxy) -> None:
    """Leads the case's two ways over these lines."""
    case.indexer.settings["database"]["port"] = database.port
    case.indexer.settings["webservice_url"] = case.receiver.url.replace(
        str(case.receiver.port), str(index.port)
    )
    case.indexer.write_files()
