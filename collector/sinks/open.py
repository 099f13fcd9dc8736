"""Opens the store that the settings name."""

from collector.settings import CollectorSettings, SinkKind
from collector.sinks.sink import Sink


def open_sink(settings: CollectorSettings) -> Sink:
    """The sink that the settings name.

    Raises:
        SinkSetupError: it cannot be used.
    """
    # Imported here, because influxdb-client takes 0.4 s to load and is optional for SQLite.
    match settings.sink.kind:
        case SinkKind.SQLITE:
            from collector.sinks.sqlite import SqliteSink

            return SqliteSink(settings.sqlite.path)
        case SinkKind.INFLUXDB:
            from collector.sinks.influxdb import InfluxDbSink

            return InfluxDbSink(settings.influxdb)
