"""What is remembered of a server for whoever asks why it failed, and the limits it is held to."""

from dataclasses import dataclass

from llamacli.terminal import shortened

MOST_MESSAGE = 16 << 20  # bytes of one message
MOST_IN_ALL = 1 << 30  # bytes of all messages of one server
MOST_NOISE = 1 << 20  # bytes on stdout that are no messages
MOST_ERRORS = 4096  # bytes of stderr, its end
MOST_QUOTED = 200  # characters of it in an error


@dataclass
class Trace:
    """fault is why the connection ended, where that is known. noise is how what isn't MCP's on
    stdout begins; errors is stderr's end."""

    fault: str = ""
    noise: bytes = b""
    noisy: int = 0
    received: int = 0
    errors: bytes = b""

    def hear(self, chunk: bytes) -> None:
        """More of stderr."""
        self.errors = (self.errors + chunk)[-MOST_ERRORS:]

    def ignore(self, line: bytes) -> None:
        """A line of stdout that is no message."""
        self.noise = self.noise or line[:MOST_QUOTED]
        self.noisy += len(line) + 1

    def told(self, what: str) -> str:
        """A fault, with what the server itself said of it."""
        parts = [what]
        if self.fault and self.fault not in what:
            parts.append(self.fault)
        if self.noise:
            parts.append(f"its stdout has other than MCP's messages, {_quoted(self.noise)}")
        lines = self.errors.decode(errors="replace").strip().splitlines()
        if lines:
            parts.append(f"its last words on stderr: {_quoted(lines[-1].encode())}")
        return "; ".join(parts)


def _quoted(text: bytes) -> str:
    return f"“{shortened(text.decode(errors='replace').strip(), MOST_QUOTED)}”"
