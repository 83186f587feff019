// Compare: two models on prompts, or two runs of accord eval, in one gallery.

import { make } from "/page/frame.js";
import { ended, fileOf } from "/page/api.js";
import { choice, field, modelsOf, number, numberOf, statusOf, takeAlong } from "/page/parts.js";

const EXAMPLE = "two yellow stars and a purple moon\na green fish and a pink heart\na red star to the left of a blue key";

export function compare(context) {
  const about = context.about;
  const models = make("input", { type: "radio", name: "what", id: "compare-models", checked: true });
  const runs = make("input", { type: "radio", name: "what", id: "compare-runs", disabled: !about.runs.length });
  const what = make("fieldset", {}, make("legend", {}, "Compare"), make("label", { for: "compare-models" }, models, "two models"), make("label", { for: "compare-runs" }, runs, about.runs.length ? "two runs" : "two runs (none was found)"));
  const a = choice([]);
  const b = choice([]);
  const prompts = make("textarea", { rows: 6 });
  prompts.value = EXAMPLE;
  const seeds = number(1, { min: 1, max: 8, step: 1 });
  const steps = number("", { min: 1, max: 200, step: 1, placeholder: "usual" });
  const ofModels = make("div", {}, field("Prompts, one a line", prompts), make("div", { className: "row" }, field("Pictures a prompt", seeds), field("Steps", steps)));
  const go = make("button", { type: "submit", className: "main" }, "Compare");
  const form = make("form", { className: "panel" }, what, field("A", a), field("B", b), ofModels, make("div", { className: "buttons" }, go));
  function fill() {
    const options = runs.checked ? about.runs.map((name) => [name, name]) : modelsOf(about);
    for (const [select, at] of [[a, 0], [b, Math.min(1, options.length - 1)]]) {
      select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
      select.selectedIndex = at;
    }
    ofModels.hidden = runs.checked;
  }
  what.addEventListener("change", fill);
  fill();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const lines = prompts.value.split(/\r?\n/).map((l) => l.trim()).filter(Boolean);
    const told = runs.checked ? { runs: true } : { prompts: lines, seeds: numberOf(seeds) ?? 1, steps: numberOf(steps) };
    context.submit("compare", { a: a.value, b: b.value, ...told });
  });
  const status = statusOf();
  const picture = make("div");
  const result = make("div", { className: "result" });
  const along = make("div");
  const pictures = make("div", { className: "below" }); // the gallery needs the width
  const stage = make("div", { className: "stage" }, make("div", { className: "panel" }, status.box, picture, result), along);
  const root = make("section", { "aria-labelledby": "title-compare" }, make("h1", { id: "title-compare" }, "Compare"), make("p", { className: "lead" }, "Two models on your prompts, or two runs of accord eval: the figures with their intervals, and all pictures side by side."), make("div", { className: "two-columns" }, form, stage), pictures);
  result.append(make("p", { className: "score-line" }, "The figures and the pictures come here."));

  const digits = (x) => (x === null || x === undefined ? "–" : x.toFixed(3));
  const signed = (x) => (x === null || x === undefined ? "–" : (x >= 0 ? "+" : "") + x.toFixed(3));
  function table(data) {
    const head = [data.figure, "A", "B", "B − A", "95 %", "prompts"];
    const rows = [data.overall, ...data.tags].map((r) => make("tr", {}, make("th", { scope: "row" }, r.name), make("td", { className: "number" }, digits(r.a)), make("td", { className: "number" }, digits(r.b)), make("td", { className: "number" }, signed(r.difference)), make("td", { className: "number" }, r.ci95 ? `${signed(r.ci95[0])} to ${signed(r.ci95[1])}` : "–"), make("td", { className: "number" }, String(r.prompts))));
    return make("div", { className: "table-of figures", tabindex: 0, role: "region", "aria-label": "figures" }, make("table", {}, make("thead", {}, make("tr", {}, ...head.map((h) => make("th", { scope: "col" }, h)))), make("tbody", {}, ...rows)));
  }
  return {
    root,
    show(job, first) {
      status.show(job);
      if (first) {
        (job.request.runs ? runs : models).checked = true;
        fill();
        a.value = job.request.a || a.value;
        b.value = job.request.b || b.value;
        if (!job.request.runs) {
          prompts.value = job.request.prompts.join("\n");
          seeds.value = job.request.seeds;
          steps.value = job.request.steps ?? "";
        }
      }
      picture.replaceChildren();
      if (job.state === "done") {
        const { data, names } = job.result;
        const wins = data.wins;
        result.replaceChildren(make("p", { className: "score-line" }, "A is ", make("b", {}, names[0]), ", B is ", make("b", {}, names[1]), `. Of ${data.prompts} prompts B is better on ${wins.wins}, as good on ${wins.ties}, worse on ${wins.losses}.`), ...(job.result.left_out || []).map((l) => make("p", { className: "missed" }, `Left out: ${l.prompt} (${l.reason})`)), table(data));
        pictures.replaceChildren(make("iframe", { className: "gallery", title: "all pictures of both", src: fileOf(job, job.result.gallery) }));
      } else {
        pictures.replaceChildren();
        if (!ended(job)) result.replaceChildren();
      }
      along.replaceChildren(ended(job) ? takeAlong(job) : "");
    },
    event(kind, data) {
      if (kind === "step") status.step(data);
      if (kind === "preview") {
        const image = make("img", { src: data.picture, alt: `a picture at step ${data.step} of ${data.steps}`, className: "preview" });
        picture.replaceChildren(make("div", { className: "frame" }, image));
      }
    },
  };
}
