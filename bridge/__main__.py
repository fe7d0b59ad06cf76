"""`python -m bridge` is `voice-bridge`."""

from bridge.cli import main

if __name__ == "__main__":
    main()
