"""The verbs `serve` and `replay`, and what `inspect` shows of a policy file."""

import argparse
from pathlib import Path

from offrl_contract import InputError

from offrl_policy.policy_file import Policy
from offrl_policy.replay import replay as replay_bag

_MOST_SHOWN = 20


def serve(argv: list[str]) -> None:
    """Run `offrl serve`: the policy node without the `ros2` command. Raises InputError."""
    parser = argparse.ArgumentParser(
        "offrl serve",
        description="Run the policy node: configured and activated at once. Arguments after "
        "--ros-args go to ROS (parameters, remappings, namespace).",
    )
    parser.add_argument("policy", type=Path, help="policy file (.onnx)")
    parser.add_argument(
        "--mode", choices=("engaged", "shadow"), default="engaged", help="%(default)s"
    )
    parser.add_argument(
        "--trusted-keys",
        type=Path,
        metavar="PEM",
        help="refuse a file that is not signed by one of these Ed25519 public keys",
    )
    parser.add_argument("--use-sim-time", action="store_true", help="follow /clock")
    mine, ros = (
        (argv[: argv.index("--ros-args")], argv[argv.index("--ros-args") :])
        if ("--ros-args" in argv)
        else (argv, ["--ros-args"])
    )
    given = parser.parse_args(mine)
    Policy(
        given.policy, given.trusted_keys
    ).self_check()  # refused here with one sentence, before ROS starts
    try:
        from offrl_policy.node import main
    except ImportError as error:
        raise InputError(
            f"offrl serve: ROS 2 is missing ({error.name}). Source its setup, or install the "
            "wheels: pip install 'offrl[ros]'"
        ) from error
    values = {
        "policy": given.policy.resolve(),
        "mode": given.mode,
        "autostart": True,
        "use_sim_time": given.use_sim_time,
    }
    if given.trusted_keys:
        values |= {"require_signature": True, "trusted_keys": given.trusted_keys.resolve()}
    main([*ros, *(part for name, value in values.items() for part in ("-p", f"{name}:={value}"))])


def replay(argv: list[str]) -> int:
    """Run `offrl replay`; return 1 where a decision differs. Raises InputError."""
    parser = argparse.ArgumentParser(
        "offrl replay",
        description="Decide a recorded drive again, and say where the decisions differ. The bag "
        "holds the node's topic ~/decision and the robot file's topics.",
    )
    parser.add_argument("bag", type=Path, help="bag (folder, .mcap or .db3)")
    parser.add_argument("--policy", type=Path, required=True, help="the policy file that drove")
    parser.add_argument("--topic", help="topic of the decisions, where there are several")
    given = parser.parse_args(argv)
    outcome = replay_bag(given.bag, given.policy, given.topic)
    for each in outcome.differences[:_MOST_SHOWN]:
        print(f"tick {each.tick / 1e9:.6f}: {each.what}")
    more = len(outcome.differences) - _MOST_SHOWN
    if more > 0:
        print(f"and {more} more")
    print(
        f"{given.bag}: {outcome.checked} decisions made again, {len(outcome.differences)} differ; "
        f"commands by at most {outcome.largest:.2g} of the action range; {outcome.skipped} skipped "
        f"(before the first keyframe, after a gap), {outcome.lost} messages not in the bag"
    )
    if not outcome.checked:
        raise InputError(f"{given.bag}: no decision could be made again")
    return int(bool(outcome.differences))


def inspect_policy(path: Path) -> None:
    """Print what a policy file holds. Raises InputError."""
    policy = Policy(path)
    robot, gate = policy.robot, policy.gate
    print(f"{path.name}: robot {robot.robot} ({robot.digest()}), {robot.rate:g} Hz")
    for name, value in sorted(policy.about.items()):
        print(f"  {name}: {value}")
    for term in robot.observation:
        print(f"  sees {term.name} ({robot.width(term)}) from {term.topic or 'its own command'}")
    for action in robot.action:
        limits = ", ".join(f"{low:g} to {high:g}" for low, high in action.limits)
        print(f"  commands {action.name} on {action.topic} ({action.type}): {limits}")
    window = f"windows of {gate.window:g} s" if gate.window else "episodes"
    print(f"  gate: alpha {gate.alpha:g}, thresholds from {gate.episodes} held-out {window}")
    for score in gate.scores:
        print(
            f"    {score.name}: alarm at {score.threshold:.4g} "
            f"(median {score.quantiles['0.5']:.4g}), CUSUM at {score.cusum_threshold:.4g}"
        )
    alarms = gate.false_alarms
    low, high = alarms.interval
    print(
        f"    false alarms: {alarms.alarms} in {alarms.episodes} episodes "
        f"({alarms.rate:.3f}, 95 % interval {low:.3f} to {high:.3f}), {alarms.per_hour:.2f} an hour"
    )
    print(f"    {gate.assumption}")
    of_actions, of_scores = policy.golden_differences()
    print(
        f"  golden vectors: largest differences {of_actions:.2g} of the action range, "
        f"{of_scores:.2g} of a threshold"
    )
    signed = "with an Ed25519 signature (not checked here)" if policy.signed else "not signed"
    print(f"  {signed}")
