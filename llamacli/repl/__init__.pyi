from .start import Wanted as Wanted, start_repl as start_repl
