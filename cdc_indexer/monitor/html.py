"""The status page as HTML: everything escaped, no style or script inside, nothing from elsewhere (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from html import escape
from typing import Any

from cdc_indexer import __version__
from cdc_indexer.model.moment import for_people
from cdc_indexer.model.program import as_called, called
from cdc_indexer.monitor import language
from cdc_indexer.monitor.causes import Cause
from cdc_indexer.monitor.report import Report, moment
from cdc_indexer.monitor.texts import (
    CAUSES,
    LANGUAGES,
    TEXTS,
    ago,
    number,
    passed,
    size,
    span,
)

__all__ = ["page"]

_SIGNS = {"ok": "✓", "warning": "!", "failed": "✕"}
_CAUSES = {cause.value: cause for cause in Cause}

#: The plot, in its own units; the style sheet stretches it.
_WIDTH, _HEIGHT = 600, 100

#: An archive that is this far behind is said to be catching up.
_BEHIND_SECONDS = 60.0


def page(report: Report, wanted: str, now: datetime) -> str:
    """The whole page in the language that is wanted; ``now`` is aware."""
    return _Page(report, wanted, now).render()


class _Page:
    def __init__(self, report: Report, wanted: str, now: datetime) -> None:
        self._report = report
        self._language = wanted
        self._texts: Mapping[str, str] = TEXTS[wanted]
        self._now = now

    def _say(self, name: str, **values: object) -> str:
        """A text, escaped."""
        return escape(self._texts[name].format(**values))

    def render(self) -> str:
        report, say = self._report, self._say
        sign = _SIGNS.get(report.state, "!")
        title = f"{sign} {self._texts['title'].format(center=report.center)}"
        links = " ".join(self._link(code, name) for code, name in LANGUAGES.items())
        return f"""<!doctype html>
<html lang="{self._language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>{escape(title)}</title>
<link rel="icon" href="/static/icon.svg?v={__version__}" type="image/svg+xml">
<link rel="stylesheet" href="/static/page.css?v={__version__}">
<script src="/static/page.js?v={__version__}" defer></script>
<noscript><meta http-equiv="refresh" content="30"></noscript>
</head>
<body>
<header>
<h1>cdc_indexer <span>{say("center", center=report.center)}</span></h1>
<nav aria-label="{say("language")}">{links}</nav>
</header>
<main>
<p id="offline" role="alert" hidden>{say("offline")}</p>
<section id="state" class="state {escape(report.state)}" role="status" data-live>{self._state()}</section>
<section id="figures" class="figures" data-live>{self._figures()}</section>
<section class="card" aria-labelledby="rate-title">
<h2 id="rate-title">{say("rate")}</h2>
<div id="rate" data-live>{self._rate()}</div>
<details>
<summary>{say("rate_table")}</summary>
<div id="rate-table" data-live>{self._rate_table()}</div>
</details>
</section>
<section id="parked" data-live>{self._parked()}</section>
<section class="card" aria-labelledby="details-title">
<h2 id="details-title">{say("details")}</h2>
<dl id="details" class="details" data-live>{self._details()}</dl>
</section>
</main>
<footer>
<p id="updated" data-live>{say("updated", time=self._clock(report.time))}</p>
<p><a href="/metrics">{say("metrics")}</a> · <a href="/status.json">{say("json")}</a></p>
</footer>
</body>
</html>
"""

    def _link(self, code: str, name: str) -> str:
        current = ' aria-current="true"' if code == self._language else ""
        return f'<a href="?lang={code}" hreflang="{code}" lang="{code}"{current}>{escape(name)}</a>'

    # --- is it healthy -----------------------------------------------------------------------------------

    def _state(self) -> str:
        report = self._report
        lines = [
            f'<span class="sign" aria-hidden="true">{_SIGNS.get(report.state, "!")}</span>',
            f"<h2>{self._say(report.state if report.state in _SIGNS else 'failed')}</h2>",
        ]
        if not report.problems:
            behind = report.seconds_behind or 0.0
            text = (
                self._say("catching_up", span=span(behind)) if behind > _BEHIND_SECONDS else self._say("fine")
            )
            lines.append(f"<p>{text}</p>")
        lines += [self._problem(problem) for problem in report.problems]
        return "\n".join(lines)

    def _problem(self, problem: Mapping[str, Any]) -> str:
        message = str(problem["message"])
        since = self._say("since", time=self._clock(problem["since"]))
        cause = _CAUSES.get(str(problem["cause"]))
        said = language.say(message, self._language)
        if self._language == "en" or cause is None or said != message:
            text = _prose(said)
        elif cause is Cause.PARKED:
            text = _prose(as_called(CAUSES[cause]))
        else:
            detail = f'{self._say("detail")} <span lang="en">{_prose(message)}</span>'
            text = f"{_prose(as_called(CAUSES[cause]))} <small>{detail}</small>"
        since = "" if cause in (Cause.PARKED, Cause.PAUSED) else f" <small>({since})</small>"
        return f"<p>{text}{since}</p>"

    # --- the figures -------------------------------------------------------------------------------------

    def _figures(self) -> str:
        report, say = self._report, self._say
        unknown = say("unknown")
        delivered_at = moment(report.last_delivery_at)
        behind = unknown if report.seconds_behind is None else escape(span(report.seconds_behind))
        size_behind = (
            unknown
            if report.bytes_behind is None
            else say("bytes_behind", size=size(report.bytes_behind, self._language))
        )
        figures = [
            (
                say("last_delivery"),
                say("none_yet")
                if delivered_at is None
                else escape(ago(delivered_at, self._now, self._language)),
                "" if delivered_at is None else _short_lines(for_people(delivered_at)),
            ),
            (say("behind"), behind, size_behind),
            (
                say("delivered"),
                self._count(report.delivered),
                say("since_start", time=self._clock(report.started_at))
                + (
                    ""
                    if report.at_index is None
                    else f"; {say('in_all', count=self._count(report.at_index))}"
                ),
            ),
            (
                say("under_way"),
                self._count(max(report.queued or 0, report.waiting or 0)),
                say(
                    "under_way_more",
                    waiting=self._count(max(0, (report.waiting or 0) - (report.queued or 0))),
                    queued=self._count(report.queued),
                ),
            ),
            (
                say("parked"),
                self._count(report.parked),
                say("parked_some") if report.parked else say("parked_none"),
            ),
        ]
        return "\n".join(
            f'<div class="card"><h2>{name}</h2><p class="figure">{value}</p><p>{more}</p></div>'
            for name, value, more in figures
        )

    # --- the plot ----------------------------------------------------------------------------------------

    def _rate(self) -> str:
        counts = self._report.last_hour or []
        most, total = max(counts, default=0), sum(counts)
        if not total:
            return f"<p>{self._say('rate_none')}</p>"
        label = self._say(
            "rate_label", total=number(total, self._language), most=number(most, self._language)
        )
        step = _WIDTH / len(counts)
        bars = "".join(
            f'<rect x="{place * step + step * 0.1:.1f}" y="{_HEIGHT - height:.1f}" '
            f'width="{step * 0.8:.1f}" height="{height:.1f}"/>'
            for place, height in _heights(counts, most)
        )
        return (
            f'<p class="most">{self._say("peak", most=number(most, self._language))}</p>'
            f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
            f'aria-label="{label}"><title>{label}</title>{bars}</svg>'
            f'<p class="axis" aria-hidden="true"><span>{self._say("hour_ago")}</span>'
            f"<span>{self._say('now')}</span></p>"
        )

    def _rate_table(self) -> str:
        counts = self._report.last_hour or []
        rows = []
        for before, count in enumerate(reversed(counts)):
            if count:
                minute = (self._now - timedelta(minutes=before)).astimezone().strftime("%H:%M")
                rows.append(f"<tr><td>{minute}</td><td>{number(count, self._language)}</td></tr>")
        if not rows:
            return f"<p>{self._say('rate_none')}</p>"
        head = f"<tr><th scope=col>{self._say('minute')}</th><th scope=col>{self._say('studies')}</th></tr>"
        return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"

    # --- what is parked, and the rest --------------------------------------------------------------------

    def _parked(self) -> str:
        report, say = self._report, self._say
        if not report.parked:
            return ""
        rows = "".join(
            f"<tr><td>{_prose(language.say(str(one['reason']), self._language))}</td>"
            f"<td>{number(int(one['count']), self._language)}</td></tr>"
            for one in report.parked_reasons or []
        )
        command = say("parked_command", command="\0list\0", retry="\0retry\0", discard="\0discard\0")
        for name in ("list", "retry", "discard"):
            command = command.replace(f"\0{name}\0", f"<code>{escape(called())} parked {name}</code>")
        head = f"<tr><th scope=col>{say('parked_reason')}</th><th scope=col>{say('studies')}</th></tr>"
        return (
            f'<div class="card"><h2>{say("parked_title")}</h2>'
            f"<table><thead>{head}</thead><tbody>{rows}</tbody></table><p>{command}</p></div>"
        )

    def _details(self) -> str:
        report, say = self._report, self._say
        error = report.last_error
        last_error = (
            say("no_error")
            if error is None
            else f"{escape(language.say(str(error['message']), self._language))} "
            f"<small>({escape(self._clock(error['time']))})</small>"
        )
        rows = [
            ("position", f"<code>{escape(report.position)}</code>" if report.position else say("unknown")),
            ("database", f"<code>{escape(report.database)}</code>" if report.database else say("unknown")),
            ("settled_until", f"{self._time(report.settled_until)} <small>({say('on_purpose')})</small>"),
            ("checkpoint", self._time(report.checkpoint_at)),
            ("retried", self._count(report.retried)),
            ("last_pass", self._passed()),
            ("last_error", last_error),
            ("started", self._time(report.started_at)),
            ("version", escape(report.version)),
        ]
        return "".join(f"<div><dt>{say(name)}</dt><dd>{value}</dd></div>" for name, value in rows)

    def _passed(self) -> str:
        last = self._report.last_pass
        if not last:
            return _prose(self._texts["no_pass"])
        return f"{escape(passed(last, self._language))} <small>({self._time(last.get('at'))})</small>"

    # --- small things ------------------------------------------------------------------------------------

    def _count(self, value: int | None) -> str:
        return self._say("unknown") if value is None else number(value, self._language)

    def _clock(self, text: object) -> str:
        found = moment(text if isinstance(text, str) else None)
        return self._texts["unknown"] if found is None else for_people(found)

    def _time(self, text: str | None) -> str:
        found = moment(text)
        # `until` is the beginning of time before the first audit.
        if found is None or found < datetime(1971, 1, 1, tzinfo=timezone.utc):
            return self._say("unknown")
        return f'<time datetime="{escape(text or "")}">{escape(for_people(found))}</time>'


def _short_lines(text: str) -> str:
    """A time for a narrow tile, escaped: it may break after the day only."""
    day, _, rest = text.partition(" ")
    return f"{escape(day)} {escape(rest).replace(' ', '&nbsp;')}"


def _prose(text: str) -> str:
    """A message, escaped; what it puts in backticks is something to type."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _heights(counts: Sequence[int], most: int) -> list[tuple[int, float]]:
    """(place, height) of each bar; a single study among thousands can still be seen."""
    return [(place, max(2.0, count / most * (_HEIGHT - 2))) for place, count in enumerate(counts) if count]
