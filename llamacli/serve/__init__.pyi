from .client import (
    BY_SERVER as BY_SERVER,
    GLANCE as GLANCE,
    Refused as Refused,
    adapters_field as adapters_field,
    answer_whole as answer_whole,
    ask_server as ask_server,
    calling_field as calling_field,
    loaded as loaded,
)
from .listen import own_socket as own_socket
from .options import Options as Options
from .run import serve as serve
from .served import ServedModel as ServedModel, served_model as served_model
