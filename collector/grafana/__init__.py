"""Grafana's dashboards and alert rules, and the code that writes them; for developers alone.

`python -m collector.grafana` (or `make dashboards`) writes `dashboards/*.json` and
`provisioning/alerting/rules.yaml`, which are committed: whoever runs Grafana needs no Python, and a
test keeps code and files the same. InfluxQL alone, so that one set serves InfluxDB 1.8, 2.x and 3.

The JSON is built by plain functions of our own rather than by grafana-foundation-sdk: it knows no
InfluxDB query, its release numbers hide Grafana's behind an epoch, and Grafana's own TypeScript
schema, which the tests run over the files, finds more than its classes do.

Grafana itself is not run here: what a panel looks like, no test has seen.
"""
