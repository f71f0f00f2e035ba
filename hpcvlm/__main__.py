"""``python -m hpcvlm``."""

from __future__ import annotations

from hpcvlm.cli.main import main

if __name__ == "__main__":
    main()
