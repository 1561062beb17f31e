"""`python -m fedsim.cli`: the command, as it starts itself."""

from fedsim.cli import app

if __name__ == "__main__":
    app(prog_name="fedsim")
