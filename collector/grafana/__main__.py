"""Write what Grafana is provisioned with: `python -m collector.grafana`."""

from pathlib import Path

from collector.grafana import files

FOLDER = Path(__file__).parent


def main() -> None:
    """Write every generated file anew."""
    for name, text in files.generated().items():
        (FOLDER / name).write_text(text, "utf-8")
        print(f"{FOLDER.name}/{name}")


if __name__ == "__main__":
    main()
