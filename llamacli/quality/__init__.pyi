from .compare import (
    Quality as Quality,
    check_plot as check_plot,
    compare as compare,
    plot as plot,
)
from .imatrix import (
    measure_importance as measure_importance,
    sample_tokens as sample_tokens,
    write_matrix as write_matrix,
)
