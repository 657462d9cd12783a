from . import registry
from .adapters import (
    adapter_choices,
    adapter_target,
    split_scale,
    stored_adapter,
)
from .listing import Stored, inventory
from .names import complete_models, existing_path, find_stored, matching, near_names, stored_model
from .opening import (
    close_in_background,
    drafting_for,
    engine_for,
    engine_settings,
    locate,
    model_path,
    open_engine,
)
from .registry import HUB_ID, REVISION, Model, defaults, find, models
from .store import (
    DEMO,
    folder_name,
    mark_used,
    remove_model,
    split_name,
    stored_models,
    target_folder,
    target_path,
)

__all__ = [
    "DEMO",
    "HUB_ID",
    "REVISION",
    "Model",
    "Stored",
    "adapter_choices",
    "adapter_target",
    "close_in_background",
    "complete_models",
    "defaults",
    "drafting_for",
    "engine_for",
    "engine_settings",
    "existing_path",
    "find",
    "find_stored",
    "folder_name",
    "inventory",
    "locate",
    "mark_used",
    "matching",
    "model_path",
    "models",
    "near_names",
    "open_engine",
    "registry",
    "remove_model",
    "split_name",
    "split_scale",
    "stored_adapter",
    "stored_model",
    "stored_models",
    "target_folder",
    "target_path",
]
