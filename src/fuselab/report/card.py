"""A kernel's card on a terminal: what it computes, moves, executes and is limited by, one line a fact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fuselab.report import figures
from fuselab.report.text import one_line, printable

__all__ = ["card_lines"]

_LONGEST = 200
_MOST = 8


def card_lines(card: Mapping[str, Any]) -> list[str]:
    """The card's sections as lines of plain text, made to stand in a comment above the kernel's source.

    Sections of older cards that are missing are left out; those that could not be made say why.

    Example:
        >>> card_lines({"traffic": {"absent": "there is no TTIR"}})
        ['traffic: absent: there is no TTIR']
    """
    lines: list[str] = [f"card: absent: {_text(card['absent'])}"] if "absent" in card else []
    for name, write in (
        ("launch", _launch),
        ("split", _split),
        ("autotune", _autotune),
        ("traffic", _traffic),
        ("occupancy", _occupancy),
        ("instructions", _instructions),
        ("limiter", _limiter),
        ("repro", _repro),
    ):
        found = card.get(name)
        if not isinstance(found, Mapping):
            continue
        if "absent" in found:
            lines.append(f"{name}: absent: {_text(found['absent'])}")
        else:
            lines += [f"{name}: {line}" for line in write(found)]
    return lines


def _text(value: Any) -> str:
    return printable(one_line(str(value), _LONGEST))


def _bytes(value: Any) -> str:
    return figures.size(value) if isinstance(value, int) else figures.NOTHING


def _launch(section: Mapping[str, Any]) -> Iterator[str]:
    grid = section.get("grid")
    if isinstance(grid, Mapping):
        yield f"grid absent: {_text(grid.get('absent'))}"
    elif isinstance(grid, Sequence) and not isinstance(grid, str):
        yield f"grid {' x '.join(str(n) for n in grid)}"
    launches = section.get("launches") or ()
    if len(launches) > 1:
        yield f"{len(launches)} places of the output code, lines {', '.join(str(one.get('line')) for one in launches)}"


def _split(section: Mapping[str, Any]) -> Iterator[str]:
    if section.get("alone"):
        yield "the only kernel of its graph"
    final = [refusal for refusal in section.get("from") or () if refusal.get("final")]
    for refusal in final[:_MOST]:
        yield f"not fused with {_text(refusal.get('neighbour'))}: {_text(refusal.get('words'))}"
    never = [_text(name) for name in section.get("never_tried_with") or ()]
    if never:
        counts = section.get("neighbours")
        total = counts.get("never_tried", len(never)) if isinstance(counts, Mapping) else len(never)
        more = f" and {total - _MOST} more" if total > _MOST else ""
        yield f"the scheduler never tried it with {', '.join(never[:_MOST])}{more}"


def _autotune(section: Mapping[str, Any]) -> Iterator[str]:
    for one in (section.get("configurations") or ())[:_MOST]:
        settings = " ".join(f"{_text(k)}={_text(v)}" for k, v in (one.get("config") or {}).items())
        time = one.get("time_us")
        took = f"{time:.2f} us" if isinstance(time, int | float) else "not timed"
        yield f"{'chosen  ' if one.get('chosen') else 'rejected'} {took}  {settings}"


def _traffic(section: Mapping[str, Any]) -> Iterator[str]:
    over = section.get("over_fewest")
    ratio = f", {over:.2f} times the fewest possible ({_bytes(section.get('fewest_bytes'))})" if over else ""
    limit = "" if section.get("exact") else " at most"
    yield f"reads {_bytes(section.get('read_bytes'))}, writes {_bytes(section.get('written_bytes'))}{limit}{ratio}"
    for argument in section.get("arguments") or ():
        again = argument.get("read_bytes", 0) + argument.get("written_bytes", 0) - argument.get("fewest_bytes", 0)
        if again > 0:
            yield f"{_text(argument.get('name'))} moves {_bytes(again)} more than once"
    for reason in (section.get("reasons") or ())[:_MOST]:
        yield f"not exact: {_text(reason)}"


def _occupancy(section: Mapping[str, Any]) -> Iterator[str]:
    share, waves = section.get("share"), section.get("waves")
    limited = " and ".join(_text(name) for name in section.get("limited_by") or ())
    facts = [
        f"{section.get('programs_per_multiprocessor')} programs, {section.get('warps_per_multiprocessor')} warps"
        " a multiprocessor"
    ]
    if isinstance(share, int | float):
        facts.append(f"{share:.0%}")
    if limited:
        facts.append(f"limited by {limited}")
    if isinstance(waves, int | float):
        facts.append(f"{waves:.2f} waves")
    yield ", ".join(facts)


def _instructions(section: Mapping[str, Any]) -> Iterator[str]:
    if "widths" in section:
        widths = ", ".join(f"{_text(name)}: {count}" for name, count in section["widths"].items())
        share = section.get("vector_share")
        vector = f"; {share:.0%} of the arithmetic is vector" if isinstance(share, int | float) else ""
        yield f"{section.get('static')} instructions by width of their registers: {widths}{vector}"
        return
    each = section.get("an_element")
    many = f"{section.get('per_warp'):.0f} a warp"
    yield f"{many}, {each:.1f} an element" if isinstance(each, int | float) else many
    accesses = ", ".join(f"{_text(name)} x {count:g}" for name, count in (section.get("accesses") or {}).items())
    if accesses:
        yield f"accesses {accesses}"
    shares = [
        f"{words} {section[name]:.0%}"
        for name, words in (
            ("special_share", "special functions"),
            ("integer_share", "integer"),
            ("conversion_share", "conversions"),
        )
        if isinstance(section.get(name), int | float)
    ]
    if shares:
        yield ", ".join(shares)
    for reason in (section.get("reasons") or ())[:_MOST]:
        yield f"not exact: {_text(reason)}"


def _limiter(section: Mapping[str, Any]) -> Iterator[str]:
    yield f"predicted {_text(section.get('predicted'))} on {_text(section.get('device'))}"
    reasons = section.get("reasons") or ()
    if reasons:
        yield _text(reasons[0])
    measured = section.get("measured")
    if isinstance(measured, Mapping):
        limiter, verdict = measured.get("limiter"), _text(measured.get("verdict"))
        said = f"measured {_text(limiter)}, {verdict}" if limiter else f"measured, {verdict}"
        yield f"{said}: {_text(measured.get('reason'))}"


def _repro(section: Mapping[str, Any]) -> Iterator[str]:
    yield f"{_text(section.get('run'))} in the kernel's directory"
