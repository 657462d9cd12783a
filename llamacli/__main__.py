from llamacli.cli import main

main()
