// Repair: a prompt, its first picture, and round after round.

import { make, frameOf, promptOf, wordTable, regionList, shown, known } from "/page/frame.js";
import { ended, fileOf } from "/page/api.js";
import { choice, field, modelsOf, number, numberOf, promptField, statusOf, takeAlong } from "/page/parts.js";

const EXAMPLE = "two yellow stars and a purple moon";

export function repair(context) {
  const prompt = promptField("Prompt");
  const seed = number(2, { min: 0, max: 2 ** 53 - 1, step: 1 });
  const dice = make("button", { type: "button", "aria-label": "another seed" }, "⚄");
  dice.addEventListener("click", () => (seed.value = Math.floor(Math.random() * 1e6)));
  const mode = choice([["same_seed", "the same noise"], ["new_seed", "another noise"], ["renoise", "the picture, noised part-way"]]);
  const rounds = number(2, { min: 0, max: 6, step: 1 });
  const strength = make("input", { type: "range", min: 0.1, max: 1, step: 0.05, value: "0.8" });
  const strengthField = field("Strength 0.80", strength);
  strength.addEventListener("input", () => strengthField.firstChild.replaceChildren(`Strength ${Number(strength.value).toFixed(2)}`));
  const steps = number("", { min: 1, max: 200, step: 1, placeholder: "usual" });
  const guidance = number("", { min: 0, max: 50, step: 0.1, placeholder: "usual" });
  const negative = make("input", { type: "text", maxlength: 2000 });
  const model = choice(modelsOf(context.about));
  const go = make("button", { type: "submit", className: "main" }, "Make and repair");
  const places = placesOf();
  const form = make(
    "form", { className: "panel" }, prompt.box,
    make("div", { className: "row" },
      make("div", { className: "field" }, make("label", { for: "seed" }, "Seed"), make("div", { className: "with-button" }, seed, dice)),
      field("Rounds at most", rounds)),
    field("A round starts from", mode), strengthField,
    make("details", {}, make("summary", {}, "Steps, guidance, negative prompt, model"),
      make("div", { className: "row" }, field("Steps", steps), field("Guidance", guidance)),
      field("Not to be seen", negative), field("Model", model)),
    places.box,
    make("div", { className: "buttons" }, go),
  );
  seed.id = "seed";
  const reveal = () => (strengthField.hidden = mode.value !== "renoise");
  mode.addEventListener("change", reveal);
  reveal();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    context.submit("repair", {
      prompt: prompt.value, seed: numberOf(seed) ?? 0, mode: mode.value, rounds: numberOf(rounds) ?? 2, strength: Number(strength.value),
      steps: numberOf(steps), guidance: numberOf(guidance), negative_prompt: negative.value, model: model.value, places: places.value,
    });
  });

  const status = statusOf();
  const picture = make("div", { className: "picture" }, empty());
  const strip = make("div", { className: "rounds", role: "group", "aria-label": "pictures of the rounds" });
  const result = make("div", { className: "result" });
  const along = make("div");
  const stage = make("div", { className: "stage" }, make("div", { className: "panel" }, status.box, picture, strip), result, along);
  const root = make("section", { "aria-labelledby": "title-repair" }, make("h1", { id: "title-repair" }, "Repair"), make("p", { className: "lead" }, "A picture from a prompt, what is missing in it and where, and the same model once more with its attention turned to that."), make("div", { className: "two-columns" }, form, stage));
  prompt.value = EXAMPLE;

  let job = null;
  let rows = []; // of the rounds, then of the best
  let chosen = -1;
  function empty() {
    return make("div", { className: "frame empty" }, "The picture comes here.");
  }
  const local = (row) => ({ ...row, image: row.image && fileOf(job, row.image), before: row.before && fileOf(job, row.before) });
  function buttons() {
    strip.replaceChildren(...rows.map((r, i) => {
      const image = make("img", { src: local(r.row).image, alt: "" });
      const button = make("button", { type: "button", "aria-pressed": String(i === chosen) }, image, r.name, make("span", {}, known(r.score) ? shown(r.score) : ""));
      button.addEventListener("click", () => choose(i));
      return button;
    }));
    strip.hidden = rows.length < 2;
  }
  function choose(i) {
    chosen = i;
    const row = local(rows[i].row);
    const frame = frameOf(row, true);
    picture.replaceChildren(frame);
    places.attach(frame, row);
    const score = known(row.scoreBefore) ? [make("b", {}, shown(row.scoreBefore)), " before, ", make("b", {}, shown(row.score)), " after"] : [make("b", {}, shown(row.score))];
    const word = wordTable(row);
    const region = regionList(row);
    result.replaceChildren(make("section", { className: "panel", "aria-label": "what was found" }, promptOf(row), make("p", { className: "score-line" }, "alignment ", ...score, `, seed ${row.seed}`), ...row.reasons.map((r) => make("p", { className: "missed" }, r)), make("div", { className: "table-of" }, word || ""), make("div", { className: "table-of" }, region || "")));
    buttons();
  }
  function take(rounds) {
    rows = rounds.map((r) => ({ ...r, name: r.number ? `round ${r.number}` : "first" }));
  }
  return {
    root,
    show(next, fresh) {
      if (!job || job.id !== next.id) {
        rows = [];
        chosen = -1;
        picture.replaceChildren(empty());
        strip.replaceChildren();
        result.replaceChildren();
      }
      job = next;
      status.show(job);
      if (fresh) fill(job.request);
      const rounds = (job.result && job.result.rounds) || (job.progress && job.progress.rounds) || [];
      if (job.state === "done") {
        take(rounds);
        rows.push({ name: "best", score: job.result.row.score, row: { ...job.result.row, number: job.number } });
        choose(rows.length - 1);
      } else if (rounds.length > rows.length) {
        take(rounds);
        choose(rows.length - 1);
      }
      along.replaceChildren(ended(job) ? takeAlong(job) : "");
      go.disabled = false;
    },
    event(kind, data) {
      if (kind === "step") status.step(data);
      if (kind === "rounds") {
        if (rows.some((r) => r.number === data.value.number)) return;
        take([...rows, data.value]);
        choose(rows.length - 1);
      }
      if (kind === "preview") {
        const image = make("img", { src: data.picture, alt: `the picture at step ${data.step} of ${data.steps}`, className: "preview" });
        picture.replaceChildren(make("div", { className: "frame" }, image));
      }
    },
  };
  function fill(asked) {
    prompt.value = asked.prompt;
    seed.value = asked.seed;
    mode.value = asked.mode;
    rounds.value = asked.rounds;
    strength.value = asked.strength;
    strength.dispatchEvent(new Event("input"));
    steps.value = asked.steps ?? "";
    guidance.value = asked.guidance ?? "";
    negative.value = asked.negative_prompt;
    if (asked.model) model.value = asked.model;
    places.value = asked.places;
    reveal();
  }
}

// --- where things are to be put: drawn on the picture, or typed -------------------------------------------------------
function placesOf() {
  const thing = choice([]);
  const add = make("button", { type: "button" }, "place it");
  const list = make("ul", { className: "places" });
  const said = make("summary");
  const box = make("details", { hidden: true }, said, make("p", { className: "missed" }, "Choose a thing, then draw its place on the picture, or type it in percent. The next picture puts it there."), make("div", { className: "with-button" }, field("Thing", thing), add), list);
  let places = [];
  let layer = null;
  const clamp = (v) => Math.min(1, Math.max(0, v));

  function rows() {
    said.replaceChildren("Put a thing elsewhere", places.length ? ` (${places.length})` : "");
    list.replaceChildren(...places.map((place, i) => {
      const parts = [["left", 0], ["top", 1], ["right", 2], ["bottom", 3]].map(([name, k]) => {
        const input = number(Math.round(100 * place.box[k]), { min: 0, max: 100, step: 1 });
        input.setAttribute("aria-label", `${name} of ${place.thing}, percent`);
        input.addEventListener("input", () => {
          place.box[k] = clamp(Number(input.value) / 100);
          draw();
        });
        return make("label", {}, name, input);
      });
      const remove = make("button", { type: "button", "aria-label": `leave the place of ${place.thing} out` }, "×");
      remove.addEventListener("click", () => {
        places.splice(i, 1);
        rows();
        draw();
      });
      return make("li", {}, make("span", { className: "name" }, place.thing), ...parts, remove);
    }));
  }
  function draw() {
    if (!layer) return;
    layer.replaceChildren(...places.map((place, i) => {
      const [x0, y0, x1, y1] = place.box;
      const node = make("div", { className: "place-box", "data-place": String(i) }, make("span", {}, place.thing), make("i", {}));
      Object.assign(node.style, { left: `${100 * x0}%`, top: `${100 * y0}%`, width: `${100 * (x1 - x0)}%`, height: `${100 * (y1 - y0)}%` });
      return node;
    }));
    layer.style.pointerEvents = box.open ? "auto" : "none";
    layer.hidden = !box.open && !places.length;
  }
  rows();
  box.addEventListener("toggle", draw);
  add.addEventListener("click", () => {
    if (!thing.value) return;
    places.push({ thing: thing.value, box: [0.3, 0.3, 0.7, 0.7] });
    rows();
    draw();
  });
  function pointers() {
    let hold = null;
    const at = (event) => {
      const place = layer.getBoundingClientRect();
      return [clamp((event.clientX - place.left) / place.width), clamp((event.clientY - place.top) / place.height)];
    };
    layer.addEventListener("pointerdown", (event) => {
      const from = at(event);
      const node = event.target.closest(".place-box");
      if (node) {
        const place = places[Number(node.dataset.place)];
        hold = { place, from, was: [...place.box], kind: event.target.tagName === "I" ? "size" : "move" };
      } else {
        if (!thing.value) return;
        const place = { thing: thing.value, box: [...from, ...from] };
        places.push(place);
        hold = { place, from, was: [...place.box], kind: "size" };
      }
      layer.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    layer.addEventListener("pointermove", (event) => {
      if (!hold) return;
      const [x, y] = at(event);
      const [dx, dy] = [x - hold.from[0], y - hold.from[1]];
      const [x0, y0, x1, y1] = hold.was;
      if (hold.kind === "move") {
        const [mx, my] = [Math.min(1 - x1, Math.max(-x0, dx)), Math.min(1 - y1, Math.max(-y0, dy))];
        hold.place.box = [x0 + mx, y0 + my, x1 + mx, y1 + my];
      } else {
        const [ex, ey] = [clamp(x1 + dx), clamp(y1 + dy)];
        hold.place.box = [Math.min(x0, ex), Math.min(y0, ey), Math.max(x0, ex), Math.max(y0, ey)];
      }
      draw();
    });
    const leave = () => {
      if (!hold) return;
      const [x0, y0, x1, y1] = hold.place.box;
      if (x1 - x0 < 0.03 || y1 - y0 < 0.03) places = places.filter((p) => p !== hold.place);
      hold = null;
      rows();
      draw();
    };
    for (const name of ["pointerup", "pointercancel"]) layer.addEventListener(name, leave);
  }
  return {
    box,
    attach(frame, row) {
      const before = thing.value;
      thing.replaceChildren(...row.things.filter((t) => t.start !== null).map((t) => make("option", { value: t.text }, t.text)));
      if ([...thing.options].some((o) => o.value === before)) thing.value = before;
      box.hidden = !thing.options.length;
      layer = make("div", { className: "place-layer" });
      frame.append(layer);
      pointers();
      draw();
    },
    get value() { return places.map((p) => ({ thing: p.thing, box: p.box.map((v) => Math.round(1e4 * v) / 1e4) })); },
    set value(given) {
      places = given.map((p) => ({ thing: p.thing, box: [...p.box] }));
      box.open = false; // an open one is drawn in, and then the slider cannot be moved
      rows();
      draw();
    },
  };
}
