"""ONNX Runtime and OpenVINO as engines of the benchmark: both read one ONNX model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lstmx.bench.engine import Case, Job

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from lstmx._types import Array


def model_of(case: Case, with_state: bool = False) -> bytes:
    """The bytes of an ONNX model of the LSTM: X (T, N, I) to Y (T, 1, N, H); with states h, c to H, C if wanted. Of the
    cells it knows the plain one and that with peepholes.
    """
    from onnx import TensorProto, helper, numpy_helper

    s, w = case.shape, case.weights
    order = [np.s_[k * s.H : (k + 1) * s.H] for k in (0, 3, 1, 2)]  # i, f, g, o become i, o, f, g
    i_o_f_g = {name: np.concatenate([w[name][part] for part in order]) for name in w if name != "peephole"}
    both = np.concatenate([i_o_f_g["bias"], 0 * i_o_f_g["bias"]])
    values = {"W": i_o_f_g["weight_ih"], "R": i_o_f_g["weight_hh"], "B": both}
    if "peephole" in w:
        values["P"] = w["peephole"].reshape(3, s.H)[[0, 2, 1]].reshape(-1)  # i, f, o become i, o, f
    state = {"h": (1, s.N, s.H), "c": (1, s.N, s.H)} if with_state else {}
    inputs, outputs = {"X": (s.T, s.N, s.I)} | state, {"Y": (s.T, 1, s.N, s.H)}
    outputs |= {name.upper(): size for name, size in state.items()}  # type: ignore[misc]

    def values_info(named: Any) -> Any:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in named.items()]

    names = ["X", "W", "R", "B", "", *(state or ("", "")), *(["P"] if "P" in values else [])]
    while not names[-1]:
        names.pop()
    node = helper.make_node("LSTM", names, list(outputs), hidden_size=s.H)
    constants = [numpy_helper.from_array(value[None], name) for name, value in values.items()]
    graph = helper.make_graph([node], "lstm", values_info(inputs), values_info(outputs), constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return model.SerializeToString()


def write_model(shape: str, path: str | os.PathLike[str]) -> None:
    """Write the model of a shape, for the task `import`."""
    with open(path, "wb") as file:
        file.write(model_of(Case(shape)))


def time_major(case: Case) -> Array:
    return np.ascontiguousarray(case.x.swapaxes(0, 1))


def batch_major(y: Any) -> Array:
    """(T, 1, N, H) as (N, T, H)."""
    return np.asarray(y)[:, 0].swapaxes(0, 1)


class OnnxRuntimeEngine:
    """Prepares cases: a plain `run`, and one with inputs and outputs bound beforehand."""

    def __init__(self, threads: int) -> None:
        import onnxruntime

        self.ort, self.threads = onnxruntime, threads

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": self.ort.__version__}

    def _session(self, case: Case, **options: Any) -> Any:
        settings = self.ort.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = self.threads, 1
        settings.log_severity_level = 3
        return self.ort.InferenceSession(model_of(case, **options), settings, providers=["CPUExecutionProvider"])

    def inference(self, case: Case) -> dict[str, Callable[[], Job]]:
        x, session = time_major(case), self._session(case)

        def run() -> Any:
            return session.run(["Y"], {"X": x})

        def bound() -> Any:
            binding = session.io_binding()
            s = case.shape
            out = self.ort.OrtValue.ortvalue_from_numpy(np.empty((s.T, 1, s.N, s.H), case.dtype))
            binding.bind_ortvalue_input("X", self.ort.OrtValue.ortvalue_from_numpy(x))
            binding.bind_ortvalue_output("Y", out)

            def call() -> None:
                session.run_with_iobinding(binding)

            def outputs() -> Any:
                call()
                return {"y": batch_major(out.numpy())}

            return Job(call, outputs)

        return {"run": lambda: Job(run, lambda: {"y": batch_major(run()[0])}), "bound": bound}

    stream = inference

    def step(self, case: Case) -> dict[str, Callable[[], Job]]:
        x, session = time_major(case), self._session(case, with_state=True)
        h = c = np.zeros((1, case.shape.N, case.shape.H), case.dtype)

        def call() -> Any:
            nonlocal h, c
            y, h, c = session.run(None, {"X": x, "h": h, "c": c})
            return y[0, 0]

        return {"": lambda: Job(call, lambda: {"y": np.concatenate([call() for _ in range(3)])})}


class OpenVinoEngine:
    """Prepares cases, float32 throughout, with inputs and outputs bound beforehand where they can be."""

    def __init__(self, threads: int) -> None:
        import openvino

        self.openvino, self.core = openvino, openvino.Core()
        self.settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }

    def versions(self) -> dict[str, str]:
        return {"openvino": self.openvino.__version__}

    def _request(self, case: Case, **options: Any) -> Any:
        model = self.core.read_model(model_of(case, **options), b"")
        return self.core.compile_model(model, "CPU", self.settings).create_infer_request()

    def inference(self, case: Case) -> dict[str, Callable[[], Job]]:
        request = self._request(case)
        request.set_input_tensor(self.openvino.Tensor(time_major(case)))  # a copy: a shared array would have to be kept

        def outputs() -> Any:
            request.infer()
            return {"y": batch_major(request.get_output_tensor().data).copy()}

        return {"": lambda: Job(request.infer, outputs)}

    stream = inference

    def step(self, case: Case) -> dict[str, Callable[[], Job]]:
        x, request = time_major(case), self._request(case, with_state=True)
        h = c = np.zeros((1, case.shape.N, case.shape.H), case.dtype)

        def call() -> Any:
            nonlocal h, c
            found = request.infer({"X": x, "h": h, "c": c}, share_inputs=True)
            h, c = found["H"], found["C"]
            return found["Y"][0, 0]

        return {"": lambda: Job(call, lambda: {"y": np.concatenate([call() for _ in range(3)])})}
