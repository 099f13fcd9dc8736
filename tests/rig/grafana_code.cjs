// What Grafana's own code (@grafana/data) makes of answers: tables, and texts of values.
//
// Reads {tables: [{frames, transformations}], values: [{config, value}]} and writes
// {tables: [{columns, rows}], texts: [{text, color}], units: [id]}.

// Grafana expects a browser, and asks it for no more than this. One of its libraries would ask for
// more if it saw one: it comes first.
require("react-use");
const window = { addEventListener() {} };
Object.assign(global, { window, navigator: { languages: ["en"] } });

const { lastValueFrom } = require("rxjs");
const grafana = require("@grafana/data");

const known = new Map(Object.values(grafana.standardTransformers).map((t) => [t.id, t]));
grafana.standardTransformersRegistry.setInit(() =>
  [...known].map(([id, transformation]) => ({ id, name: id, transformation })),
);

async function table({ frames, transformations }) {
  const context = { interpolate: (text) => text };
  const data = frames.map((frame) => grafana.toDataFrame(frame));
  const made = await lastValueFrom(grafana.transformDataFrame(transformations, data, context));
  if (made.length === 0) {
    return { columns: [], rows: [] };
  }
  const [frame] = made;
  return {
    frames: made.length,
    columns: frame.fields.map((field) => grafana.getFieldDisplayName(field, frame, made)),
    rows: Array.from({ length: frame.length }, (_, row) => frame.fields.map((f) => f.values[row])),
  };
}

function text({ config, value }) {
  const field = { type: "number", config };
  const shown = grafana.getDisplayProcessor({ field, theme: grafana.createTheme() })(value);
  return { text: grafana.formattedValueToString(shown), color: shown.color };
}

async function main() {
  const asked = JSON.parse(require("fs").readFileSync(0, "utf-8"));
  const answer = {
    tables: await Promise.all(asked.tables.map(table)),
    texts: asked.values.map(text),
    units: grafana.getValueFormats().flatMap((group) => group.submenu.map((unit) => unit.value)),
  };
  // On a line of its own: libraries advertise themselves above it.
  console.log("\n" + JSON.stringify(answer));
}

main();
