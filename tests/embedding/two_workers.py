"""A program that runs the application in two processes, which its command line does not tell: PORT."""

from __future__ import annotations

import sys

import uvicorn

if __name__ == "__main__":
    uvicorn.run("tests.embedding.app:app", port=int(sys.argv[1]), workers=2)
