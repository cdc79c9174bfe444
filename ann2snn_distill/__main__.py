"""`python -m ann2snn_distill`, where the command `snn-distill` is not on the path."""

from ann2snn_distill.cli.process import main

if __name__ == "__main__":
    main()
