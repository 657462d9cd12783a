from . import registry as registry
from .listing import Stored as Stored, inventory as inventory
from .names import (
    adapter_choices as adapter_choices,
    adapter_target as adapter_target,
    complete_models as complete_models,
    existing_path as existing_path,
    find_checkpoint as find_checkpoint,
    find_stored as find_stored,
    matching as matching,
    split_scale as split_scale,
    stored_adapter as stored_adapter,
    stored_model as stored_model,
)
from .opening import (
    close_in_background as close_in_background,
    drafting_for as drafting_for,
    engine_for as engine_for,
    engine_settings as engine_settings,
    locate as locate,
    model_path as model_path,
    open_engine as open_engine,
)
from .registry import (
    HUB_ID as HUB_ID,
    REVISION as REVISION,
    Model as Model,
    defaults as defaults,
    find as find,
    models as models,
)
from .store import (
    DEMO as DEMO,
    folder_name as folder_name,
    mark_used as mark_used,
    remove_model as remove_model,
    split_name as split_name,
    stored_models as stored_models,
    target_folder as target_folder,
    target_path as target_path,
)
