"""Cuts a failing course down to the shortest that still fails in the same way."""

from __future__ import annotations

import json
from dataclasses import replace

from tests.simulation.course import Course, Failure, play
from tests.simulation.world import Config, Step

__all__ = ["shrink", "tell"]


def shrink(failure: Failure, *, budget: int = 4000) -> Failure:
    """Takes out steps, then makes what was drawn simpler, then the settings."""
    left = [budget]

    def fails(course: Course) -> bool:
        left[0] -= 1
        again = play(course)
        return again is not None and again.kind == failure.kind

    course = failure.course
    if not fails(course):
        return failure
    before = None
    while before != course and left[0] > 0:
        before = course
        course = _fewer(course, fails, left)
        course = _simpler(course, fails, left)
        course = _plainer(course, fails)
    again = play(course)
    return Failure(again.what if again else failure.what, course, failure.seed)


def _fewer(course: Course, fails: object, left: list[int]) -> Course:
    size = max(len(course.steps) // 2, 1)
    while size and left[0] > 0:
        at = len(course.steps)
        while at > 0 and left[0] > 0:
            start = max(at - size, 0)
            shorter = replace(course, steps=course.steps[:start] + course.steps[at:])
            if fails(shorter):  # type: ignore[operator]
                course = shorter
            at = start
        size //= 2
    return course


def _simpler(course: Course, fails: object, left: list[int]) -> Course:
    for index in range(len(course.steps)):
        name, draws = course.steps[index]
        for place, value in enumerate(draws):
            for smaller in sorted({0, value // 2, value - 1}):
                if not 0 <= smaller < value or left[0] <= 0:
                    continue
                less = (*draws[:place], smaller, *draws[place + 1 :])
                steps: tuple[Step, ...] = (*course.steps[:index], (name, less), *course.steps[index + 1 :])
                if fails(replace(course, steps=steps)):  # type: ignore[operator]
                    course, draws = replace(course, steps=steps), less
                    break
    return course


def _plainer(course: Course, fails: object) -> Course:
    usual = Config()
    for name in vars(usual):
        if getattr(course.config, name) != getattr(usual, name):
            plain = replace(course, config=replace(course.config, **{name: getattr(usual, name)}))
            if fails(plain):  # type: ignore[operator]
                course = plain
    return course


def tell(failure: Failure) -> str:
    """The course, as people read it, and as seeds.txt keeps it."""
    trace: list[str] = []
    again = play(failure.course, trace)
    what = again.what if again is not None else failure.what
    return "\n".join([*trace, what, json.dumps({"why": what, **failure.course.render()})])
