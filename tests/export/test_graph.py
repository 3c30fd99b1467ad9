"""A policy that picks among candidates picks the same one in every runtime."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from offrl_contract import Robot, robot_from_yaml
from offrl_export.dynamics import Dynamics
from offrl_export.graph import SCORES, PolicyGraph, write_graph
from offrl_policy.onnx_rules import check_model
from offrl_policy.policy_file import BEFORE
from offrl_training.algorithms import ALGORITHMS
from offrl_training.algorithms.base import AlgorithmConfig, Dims
from offrl_training.config import TrainingConfig
from offrl_training.networks import Normaliser
from offrl_training.run import TrainedRun
from offrl_training.trainer import build

ROBOT = """
robot: point
rate: 5.0
observation:
  - {name: x, topic: /odom, type: nav_msgs/msg/Odometry, field: [pose.pose.position.x, pose.pose.position.y]}
action:
  - {name: cmd, topic: /cmd_vel, type: geometry_msgs/msg/Twist, field: [linear.x, angular.z], limits: [[-0.5, 1.5], [-1.0, 1.0]], safe: [0.0, 0.0]}
reward: "x_0"
"""  # noqa: E501


def trained(name: str, robot: Robot) -> TrainedRun:
    kind: type[AlgorithmConfig] = ALGORITHMS[name].config_type
    config = kind.model_validate({"hidden": (64, 64)})
    normaliser = Normaliser(2, robot.limits)
    random = torch.Generator().manual_seed(0)
    algorithm, gate_critics = build(name, config, Dims(2, 2, 10), normaliser, random)
    none = np.array([], np.int64)
    return TrainedRun(
        robot, name, config, TrainingConfig(), algorithm, gate_critics, "d", "0", none, none, 1
    )


@pytest.mark.parametrize("name", [name for name, kind in ALGORITHMS.items() if kind.chooses])
def test_onnx_chooses_as_torch(name: str, tmp_path: Path) -> None:
    run = trained(name, robot_from_yaml(ROBOT, "point.yaml"))
    states = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    graph = PolicyGraph(run, states, Dynamics(run, ["x"]))
    write_graph(graph, tmp_path / "policy.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "policy.onnx", providers=["CPUExecutionProvider"]
    )
    given = {BEFORE: np.zeros((1, 5), np.float32)}
    found = np.concatenate(
        [session.run(["action"], given | {"observation": s[None]})[0] for s in states]
    )
    with torch.no_grad():
        expected = graph.act(torch.from_numpy(states)).numpy()
        single = run.algorithm.act(torch.from_numpy(states)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # training's own choice, in single precision, differs at ties alone
    assert np.mean(np.abs(found - single).max(1) > 1e-4) < 0.02
    assert len(np.unique(found.round(4), axis=0)) > 5


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_graph_is_one_that_the_robot_lets_in(name: str, tmp_path: Path) -> None:
    run = trained(name, robot_from_yaml(ROBOT, "point.yaml"))
    states = np.zeros((10, 2), np.float32)
    model = write_graph(PolicyGraph(run, states, Dynamics(run, ["x"])), tmp_path / "policy.onnx")
    check_model(model.SerializeToString())


def test_knn_is_the_distance_to_the_fifth_prototype_also_far_away_and_on_top_of_them() -> None:
    run = trained("bc", robot_from_yaml(ROBOT, "point.yaml"))
    states = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    states[:5] = 0.25  # as where the robot stood still
    graph = PolicyGraph(run, states, Dynamics(run, ["x"]))
    seen = np.concatenate([states[:10], states[:3] + 7.0, states[:3] * 1e3])
    apart = np.linalg.norm(seen[:, None].astype(np.float64) - states[None], axis=-1)
    found = graph.distance(torch.from_numpy(seen)).numpy()
    np.testing.assert_allclose(found, np.sort(apart, 1)[:, 4], rtol=1e-4, atol=2e-3)


def test_the_models_disagree_about_the_policys_own_action() -> None:
    run = trained("bc", robot_from_yaml(ROBOT, "point.yaml"))
    states = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    graph = PolicyGraph(run, states.numpy(), Dynamics(run, ["x"]))
    with torch.no_grad():
        action, scores, _ = graph(states, torch.zeros(20, sum(graph.sizes) + 1))
        own, other = (graph.dynamics.disagreement(states, each) for each in (action, -action))
    np.testing.assert_allclose(scores[:, SCORES.index("dynamics_std")], own, rtol=1e-6)
    assert float((own - other).abs().min()) > 1e-5
