// Read: a picture, the prompt that its file states and the one that is read back, and where each phrase is.

import { make, frameOf, promptOf, wordTable, shown, isLow } from "/page/frame.js";
import { ended, fileOf } from "/page/api.js";
import { choice, dropZone, field, modelsOf, promptField, statusOf, takeAlong } from "/page/parts.js";

export function read(context) {
  let upload = null;
  const drop = dropZone("Drop a picture", "image/*", (found) => {
    upload = found;
    preview.replaceChildren(make("img", { src: `/api/uploads/${found.id}/shown`, alt: `the picture ${found.name}` }));
    go.disabled = false;
    submit();
  }, context.notice);
  const preview = make("div");
  const own = promptField("Judge it by a prompt of your own (optional)");
  const model = choice(modelsOf(context.about));
  const go = make("button", { type: "submit", className: "main", disabled: true }, "Read it");
  const form = make("form", { className: "panel" }, drop.zone, own.box, make("details", {}, make("summary", {}, "Model"), field("Whose attention says where a phrase is", model)), make("div", { className: "buttons" }, go));
  const submit = () => upload && context.submit("read", { upload: upload.id, prompt: own.value, model: model.value });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  const status = statusOf();
  const picture = make("div", { className: "picture" }, make("div", { className: "frame empty" }, "The picture comes here."));
  const found = make("div", { className: "result" });
  const along = make("div");
  const stage = make("div", { className: "stage" }, make("div", { className: "panel" }, status.box, picture), found, along);
  const root = make("section", { "aria-labelledby": "title-read" }, make("h1", { id: "title-read" }, "Read"), make("p", { className: "lead" }, "Which prompt made this picture? What its file states, what is read back, and where each phrase is."), make("div", { className: "two-columns" }, form, stage));

  let job = null;
  let told = { judged: [] };
  const fresh = () => ({ read: null, judged: [], source: "none", stated: "" });
  function shownPicture(row, map, thing) {
    const regions = row && thing !== undefined ? row.regions.filter((r) => r.thing === thing) : [];
    const base = row || { prompt: "", regions: [], things: [], seed: null, number: 0 };
    const address = job.state === "done" || told.judged.length ? fileOf(job, "picture.png") : `/api/uploads/${job.request.upload}/shown`;
    const frame = frameOf({ ...base, regions, image: address, before: null }, true);
    if (map) frame.querySelector("img").after(make("img", { className: "where", src: fileOf(job, map), alt: "where the phrase is" }));
    picture.replaceChildren(frame);
  }
  function card(judged, title) {
    if (judged.error) return make("section", { className: "panel" }, make("h2", {}, title), make("p", {}, judged.prompt), make("p", { className: "problem" }, judged.error));
    const row = judged.row;
    const buttons = row.things.map((thing, i) => {
      const words = row.words.filter((w) => w.start !== null && thing.start !== null && w.start >= thing.start && w.start < thing.end);
      const wrong = words.some(isLow);
      const button = make("button", { type: "button", "aria-pressed": "false" }, `${wrong ? "✗" : "✓"} ${thing.text}`);
      button.style.borderColor = thing.color;
      button.setAttribute("aria-label", `${thing.text}: ${wrong ? "not seen so" : "seen"}; show where`);
      button.addEventListener("click", () => {
        const on = button.getAttribute("aria-pressed") !== "true";
        for (const other of found.querySelectorAll(".phrases button")) other.setAttribute("aria-pressed", "false");
        button.setAttribute("aria-pressed", String(on));
        shownPicture(row, on ? judged.maps[i] : null, on ? i : undefined);
      });
      return button;
    });
    return make("section", { className: "panel result" }, make("h2", {}, title), promptOf(row), make("p", { className: "score-line" }, "alignment ", make("b", {}, shown(row.score))), make("div", { className: "phrases", role: "group", "aria-label": `phrases of ${title}` }, ...buttons), judged.nowhere ? make("p", { className: "missed" }, `where they are is not known: ${judged.nowhere}`) : null, make("details", {}, make("summary", {}, "each word"), make("div", { className: "table-of" }, wordTable(row) || "")));
  }
  function draw() {
    const parts = [];
    const title = (prompt) => (told.read && prompt === told.read.prompt ? "Read back" : job.request.prompt ? "Your prompt" : "Stated in the file");
    parts.push(...told.judged.map((j) => card(j, title(j.prompt))));
    if (job.state === "done" && !told.stated) parts.unshift(make("p", { className: "score-line" }, "The file states no prompt."));
    if (told.read) {
      const words = told.read.words.map(([w, p]) => make("li", {}, w, " ", make("b", {}, shown(p))));
      if (!told.judged.some((j) => j.prompt === told.read.prompt)) parts.push(make("section", { className: "panel" }, make("h2", {}, "Read back"), make("p", {}, told.read.prompt)));
      parts.push(make("section", { className: "panel" }, make("h2", {}, "Words read off the picture"), make("ul", { className: "words-read" }, ...words)));
    }
    found.replaceChildren(...parts);
  }
  return {
    root,
    show(next, first) {
      if (!job || job.id !== next.id) told = fresh();
      job = next;
      status.show(job);
      if (first) {
        own.value = job.request.prompt;
        if (job.request.model) model.value = job.request.model;
        upload = { id: job.request.upload };
        go.disabled = false;
      }
      if (job.result) told = { ...told, ...job.result };
      else if (job.progress) {
        if (job.progress.read) told.read = job.progress.read[0];
        if (job.progress.judged) told.judged = job.progress.judged;
      }
      shownPicture(null);
      draw();
      along.replaceChildren(ended(job) ? takeAlong(job) : "");
    },
    event(kind, data) {
      if (kind === "step") status.step(data);
      if (kind === "read") told.read = data.value;
      if (kind === "judged") told.judged = [...told.judged, data.value];
      if (kind === "read" || kind === "judged") draw();
    },
  };
}
