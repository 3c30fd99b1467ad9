"""One web page that shows a policy file: its gate, what the gate promises, where it comes from."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from offrl_contract.sampling import action_names
from offrl_data.report_summary import duration
from offrl_data.web_page import (
    Cell,
    Figure,
    Plots,
    Section,
    cards,
    panel,
    table,
    web_page,
    write_whole,
)
from offrl_policy.gate import GateCalibration
from offrl_policy.policy_file import Policy
from plotly import graph_objects as go

from offrl_export.study import GATE, Drives, Share, Study, read_study

_BLUE, _GREY, _ORANGE = "#2f62c4", "#8b93a1", "#d98324"
_WELL_AVOIDED = 0.9
_MARGIN = {"l": 60, "r": 20, "t": 10, "b": 45}


def report_policy(path: Path, out: Path, study: Path | None) -> int:
    """Write the page of a policy file; return its size in bytes. Raises InputError."""
    policy = Policy(path)
    found = None if study is None else read_study(study, policy)
    plots = Plots()
    sections = list(_sections(policy, found, plots))
    robot = policy.robot
    subtitle = (
        f"Robot {robot.robot} at {robot.rate:g} Hz, SI units. Numbers observed: "
        f"{robot.observation_size}, commanded: {robot.action_size}."
    )
    page = web_page("offrl report", path.name, subtitle, [_cards(policy)], sections, plots)
    return write_whole(page, out)


def _cards(policy: Policy) -> str:
    gate, about = policy.gate, policy.about
    alarms = gate.false_alarms
    low, high = alarms.interval
    return cards(
        [
            ("algorithm", about.get("algorithm", "?"), f"at step {about.get('step', '?')}"),
            (
                "alpha",
                f"{gate.alpha:g}",
                "asked for: normal episodes that alarm, at most",
            ),
            (
                "false alarms",
                f"{alarms.alarms} of {alarms.episodes}",
                f"episodes, each half judged by the other; {low:.1%} to {high:.1%} at 95 %",
            ),
            (
                "false alarms an hour",
                f"{alarms.per_hour:.3g}",
                f"in {duration(3600.0 * alarms.hours)}",
            ),
        ]
    )


def _sections(policy: Policy, study: Study | None, plots: Plots) -> Iterator[Section]:
    gate = policy.gate
    kind = f"windows of {gate.window:g} s" if gate.window else "episodes"
    yield (
        "Gate",
        f"Thresholds from {gate.episodes} held-out {kind}. A score alarms by its value, or by its "
        "CUSUM, the sum of what lies above normal.",
        panel(_scores(gate)),
    )
    if gate.reliability:
        yield (
            "Reliability",
            "Alarms in normal episodes against the alpha asked for, each half of the held-out "
            "episodes judged by the other; bars are 95 % intervals (Clopper-Pearson).",
            panel(plots.place(_reliability(gate))),
        )
    yield "Assumption", escape(gate.assumption), ""
    if study is not None:
        yield from _study(study, plots)
    yield _origin(policy)


def _scores(gate: GateCalibration) -> str:
    rows = [
        (
            each.name,
            f"{each.mean:.4g}",
            f"{each.std:.3g}",
            *(
                f"{each.quantiles[key]:.4g}" if key in each.quantiles else "-"
                for key in ("0.5", "0.99", "1")
            ),
            f"{each.threshold:.4g}",
            f"{each.cusum_threshold:.4g}",
        )
        for each in gate.scores
    ]
    numeric = ("mean", "deviation", "median", "99 %", "largest", "alarm at", "CUSUM alarm at")
    return table(("score", *numeric), rows, numeric)


def _reliability(gate: GateCalibration) -> Figure:
    """Draw observed against asked, with the line on which both are equal."""
    asked = [each.alpha for each in gate.reliability]
    seen = [each.rate for each in gate.reliability]
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=[0.0, max(asked)],
            y=[0.0, max(asked)],
            mode="lines",
            line={"color": _GREY, "dash": "dot"},
            name="as asked",
        )
    )
    above = [each.interval[1] - each.rate for each in gate.reliability]
    below = [each.rate - each.interval[0] for each in gate.reliability]
    figure.add_trace(
        go.Scatter(
            x=asked,
            y=seen,
            mode="markers",
            marker={"color": _BLUE, "size": 9},
            error_y={"type": "data", "array": above, "arrayminus": below, "color": _BLUE},
            name="seen",
        )
    )
    figure.update_layout(
        height=340,
        margin=_MARGIN,
        showlegend=False,
        xaxis={"title": {"text": "alpha asked for"}, "rangemode": "tozero"},
        yaxis={"title": {"text": "share of normal episodes that alarmed"}, "rangemode": "tozero"},
    )
    return figure


def _study(study: Study, plots: Plots) -> Iterator[Section]:
    """Yield what benchmarks/gate.py found."""
    detectors = list(next(iter(study.conditions.values())).alarms)
    normal = {
        name: each
        for name, each in study.conditions.items()
        if each.bumps is None or name == "nominal"
    }
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            each.drives,
            f"{each.hours:.2f}",
            *(_share(each.alarms[detector]) for detector in detectors),
        )
        for name, each in normal.items()
    ]
    numeric = ("drives", "hours", *detectors)
    yield (
        "Drives as recorded",
        "Share of drives with an alarm, with its 95 % interval, of the gate and of others for "
        "comparison. The promise is about the recorded drivers; nominal is the policy itself, and "
        "another robot ought to alarm.",
        panel(table(("drives of", *numeric), rows, numeric), "scroll"),
    )
    changed = {name: each for name, each in study.conditions.items() if name not in normal}
    if changed:
        yield _changes(changed)
    if study.auroc:
        yield (
            "Detectors compared",
            "How often a drive with a bump scores higher than one without (area under the ROC "
            "curve; 0.5 is chance), over all drives of the policy.",
            panel(plots.place(_auroc(study.auroc))),
        )


def _changes(changed: dict[str, Drives]) -> Section:
    rows = [
        (
            name,
            each.drives,
            each.bumps or 0,
            each.behind_gate or 0,
            "-" if not each.avoided or not each.avoided.of else _share(each.avoided),
            _share(each.alarms[GATE]),
            *("-" if count is None else count for count in (each.checked, each.braked)),
            "-"
            if each.alarms[GATE].median_delay is None
            else f"{each.alarms[GATE].median_delay:.1f}",
        )
        for name, each in changed.items()
    ]
    numeric = (
        "drives",
        "bumps",
        "behind the gate",
        "avoided",
        "alarmed",
        "stopped by a check",
        "braked",
        "alarm after [s]",
    )
    missed = [
        name
        for name, each in changed.items()
        if each.avoided and each.avoided.of and each.avoided.count < _WELL_AVOIDED * each.avoided.of
    ]
    said = (
        f"Fewer than {_WELL_AVOIDED:.0%} of the bumps were avoided with: {', '.join(missed)}."
        if missed
        else f"At least {_WELL_AVOIDED:.0%} of the bumps were avoided everywhere."
    )
    return (
        "What no log has shown",
        f"The same scenarios without and behind the gate. {escape(said)}",
        panel(table(("change", *numeric), rows, numeric), "scroll"),
    )


def _share(share: Share) -> str:
    if not share.of:
        return "-"
    low, high = share.interval
    return f"{share.count / share.of:.0%} ({low:.0%} to {high:.0%})"


def _auroc(auroc: dict[str, float]) -> Figure:
    ordered = sorted(auroc.items(), key=lambda each: each[1])
    figure = go.Figure(
        go.Bar(
            x=[value for _, value in ordered],
            y=[name for name, _ in ordered],
            orientation="h",
            marker={"color": [_BLUE if name == GATE else _ORANGE for name, _ in ordered]},
            text=[f"{value:.3f}" for _, value in ordered],
        )
    )
    figure.update_layout(
        height=60 + 32 * len(ordered),
        margin=_MARGIN | {"l": 140},
        xaxis={"range": [0.0, 1.0]},
    )
    return figure


def _origin(policy: Policy) -> Section:
    robot = policy.robot
    of_actions, _ = policy.golden_differences()
    signed = "with an Ed25519 signature (not checked here)" if policy.signed else "none"
    lines = [
        ("SHA-256", policy.checksum),
        ("robot file digest", robot.digest()),
        ("golden vectors", f"differ by {of_actions:.2g} of the action range here"),
        ("signature", signed),
        *sorted(policy.about.items()),
    ]
    limits = zip(action_names(robot), robot.limits, strict=True)
    commands = [(name, f"{low:g} to {high:g}") for name, (low, high) in limits]
    left = panel(table(("what", "value"), lines, ()))
    left += panel(table(("command", "limits"), commands, ("limits",)))
    text = panel(f"<pre><code>{escape(robot.to_yaml())}</code></pre>", "scroll")
    content = f'<div class="two"><div>{left}</div>{text}</div>'
    return "Origin", "What this policy was made from, and its robot file.", content
