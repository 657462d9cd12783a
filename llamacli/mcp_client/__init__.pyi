from .config import ServerConfig, read_servers
from .results import Outcome
from .servers import Servers, open_servers

__all__ = ["Outcome", "ServerConfig", "Servers", "open_servers", "read_servers"]
