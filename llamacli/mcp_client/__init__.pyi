from .config import ServerConfig as ServerConfig, read_servers as read_servers
from .servers import Servers as Servers, open_servers as open_servers
