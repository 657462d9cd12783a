from llamacli.cli import start

start()
