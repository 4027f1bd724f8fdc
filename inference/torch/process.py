"""The engine process of torch: `python -m inference.torch.process`; all but the forward pass is llama_process's."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from inference.engine_wire import Load
from inference.forward import LoadError
from inference.gguf import read_contents
from inference.gguf_file import gguf_bytes
from inference.llama_process import Ready, Telling, main
from inference.native import Model, system_info
from inference.torch.forward import TorchContext
from inference.torch.shape import Shape, from_config, from_gguf
from inference.torch.tokens import read_json, vocabulary_of
from inference.torch.weights import Tensor, Weights, load_folder, load_gguf


def load_torch(load: Load, told: Telling) -> Ready:
    """Single precision on a CPU, bfloat16 on a GPU. Raises LoadError, TetherError(MODEL_INVALID)."""
    torch.set_num_threads(load.threads)
    try:
        shape, weights, model = _load(Path(load.path), load.gpu_layers, told)
        on_gpu = weights["token_embd.weight"].is_cuda
        if model.vocabulary_size != shape.vocabulary:
            raise LoadError(
                f"its vocabulary has {model.vocabulary_size} tokens, its layers {shape.vocabulary}"
            )
        context = TorchContext(
            weights, shape, slots=load.slots, context_tokens=load.context_tokens, together=on_gpu
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise LoadError("there is too little memory for it") from error
    name = torch.cuda.get_device_name() if on_gpu else system_info()
    return Ready(model, context, f"torch{torch.__version__}", name, on_gpu)


def _device(shape: Shape, gpu_layers: int) -> tuple[str, Tensor]:
    """The GPU only where it has room for all layers."""
    if gpu_layers >= shape.layers and torch.cuda.is_available():
        return "cuda", torch.bfloat16
    return "cpu", torch.float32


def _load(path: Path, gpu_layers: int, told: Telling) -> tuple[Shape, Weights, Model]:
    if path.is_dir():
        shape = from_config(read_json(path / "config.json"))
        device, dtype = _device(shape, gpu_layers)
        weights = load_folder(path, shape, dtype=dtype, device=device, told=told.read)
        with tempfile.TemporaryDirectory(prefix="tether-vocabulary-") as folder:
            file = Path(folder) / "vocabulary.gguf"
            file.write_bytes(gguf_bytes(vocabulary_of(path, shape.vocabulary)))
            return shape, weights, Model(file, only_vocabulary=True)
    contents = read_contents(path)
    shape = from_gguf(contents.values, contents.header.vocabulary)
    device, dtype = _device(shape, gpu_layers)
    weights = load_gguf(path, contents, shape, dtype=dtype, device=device, told=told.read)
    return shape, weights, Model(path, only_vocabulary=True)


if __name__ == "__main__":
    main(load_torch)
