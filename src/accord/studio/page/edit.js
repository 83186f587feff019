// Edit: a video changed by words, its frames beside those of the source.

import { make, shown } from "/page/frame.js";
import { ended, fileOf } from "/page/api.js";
import { choice, dropZone, field, modelsOf, number, numberOf, promptField, statusOf, takeAlong } from "/page/parts.js";

const NAMES = {
  text_alignment: "the edit and its prompt, by CLIP", temporal_consistency: "frame to frame, by CLIP", track_error: "error of the track",
  background_psnr: "background kept, PSNR", background_ssim: "background kept, SSIM", flicker: "flicker of the background",
};

export function edit(context) {
  let upload = null;
  const go = make("button", { type: "submit", className: "main", disabled: true }, "Edit the video");
  const drop = dropZone("Drop a video", "video/*,image/gif,.mkv,.avi", (found) => {
    upload = found;
    go.disabled = false;
    frames.max = found.frames;
    if (Number(frames.value) > found.frames) frames.value = found.frames;
    picture.replaceChildren(make("figure", {}, make("figcaption", {}, "the source"), make("div", { className: "frame" }, make("img", { src: `/api/uploads/${found.id}/shown`, alt: `a frame of ${found.name}` }))));
  }, context.notice);
  const source = promptField("What the video shows");
  const target = promptField("What it is to show");
  const frames = number(8, { min: 1, max: 64, step: 1 });
  const tuning = number("", { min: 0, max: 500, step: 1, placeholder: "usual" });
  const steps = number("", { min: 2, max: 100, step: 1, placeholder: "usual" });
  const guidance = number("", { min: 0, max: 50, step: 0.1, placeholder: "usual" });
  const injection = number(0.5, { min: 0, max: 1, step: 0.05 });
  const blending = number(0.7, { min: 0, max: 1, step: 0.05 });
  const seed = number(0, { min: 0, step: 1 });
  const model = choice(modelsOf(context.about));
  const form = make("form", { className: "panel" }, drop.zone, source.box, target.box, make("div", { className: "row" }, field("Frames", frames), field("Seed", seed)), make("details", {}, make("summary", {}, "Tuning, steps, what stays, model"), make("div", { className: "row" }, field("Steps of tuning", tuning), field("Steps", steps)), make("div", { className: "row" }, field("Guidance", guidance), field("Layout held", injection)), make("div", { className: "row" }, field("Source put back", blending), field("Model", model))), make("div", { className: "buttons" }, go));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!upload) return;
    context.submit("edit", {
      upload: upload.id, source: source.value, target: target.value, frames: numberOf(frames) ?? 16, tune_steps: numberOf(tuning), steps: numberOf(steps),
      guidance: numberOf(guidance), injection: numberOf(injection) ?? 0.5, mask_blending: numberOf(blending) ?? 0.7, seed: numberOf(seed) ?? 0, model: model.value,
    });
  });
  const status = statusOf();
  const picture = make("div", { className: "picture" }, make("div", { className: "frame empty" }, "The frames come here."));
  const result = make("div", { className: "result" });
  const along = make("div");
  const stage = make("div", { className: "stage" }, make("div", { className: "panel" }, status.box, picture), result, along);
  const root = make("section", { "aria-labelledby": "title-edit" }, make("h1", { id: "title-edit" }, "Edit"), make("p", { className: "lead" }, "A video changed by words: the thing changes, motion and background are meant to stay."), make("div", { className: "two-columns" }, form, stage));

  let job = null;
  let timer = 0;
  function player(found) {
    clearInterval(timer);
    const kinds = [["source", found.before], ["edit", found.after], ["what changed", found.changed]].filter(([, names]) => names && names.length);
    const images = kinds.map(([, names]) => make("img", { alt: "", src: fileOf(job, names[0]) }));
    kinds.forEach(([, names]) => names.forEach((name) => (new Image().src = fileOf(job, name)))); // so that it plays at once
    const figures = kinds.map(([title], i) => {
      images[i].addEventListener("load", () => {
        const small = Math.max(images[i].naturalWidth, images[i].naturalHeight) <= 128;
        images[i].classList.toggle("crisp", small);
        images[i].parentNode.style.aspectRatio = `${images[i].naturalWidth} / ${images[i].naturalHeight}`;
      });
      return make("figure", {}, make("figcaption", {}, title), make("div", { className: "frame" }, images[i]));
    });
    const slider = make("input", { type: "range", min: 0, max: found.before.length - 1, step: 1, value: "0", "aria-label": "frame" });
    const said = make("span", {});
    const play = make("button", { type: "button" }, "play");
    function frame(i) {
      slider.value = i;
      said.replaceChildren(`frame ${i + 1} of ${found.before.length}`);
      kinds.forEach(([title, names], k) => {
        images[k].src = fileOf(job, names[i]);
        images[k].alt = `${title}, frame ${i + 1}`;
      });
    }
    slider.addEventListener("input", () => frame(Number(slider.value)));
    play.addEventListener("click", () => {
      const on = play.textContent === "play";
      play.replaceChildren(on ? "pause" : "play");
      clearInterval(timer);
      if (on) timer = setInterval(() => frame((Number(slider.value) + 1) % found.before.length), 1000 / Math.min(24, found.fps || 8));
    });
    frame(0);
    picture.replaceChildren(make("div", { className: "three" }, ...figures), make("div", { className: "play" }, play, slider, said));
  }
  function fill(asked) {
    source.value = asked.source;
    target.value = asked.target;
    const numbers = [[frames, asked.frames], [tuning, asked.tune_steps], [steps, asked.steps], [guidance, asked.guidance], [injection, asked.injection], [blending, asked.mask_blending], [seed, asked.seed]];
    for (const [input, value] of numbers) input.value = value ?? "";
    if (asked.model) model.value = asked.model;
  }
  return {
    root,
    show(next, first) {
      job = next;
      status.show(job);
      if (first) {
        fill(job.request);
        upload = { id: job.request.upload };
        go.disabled = false;
      }
      const frames = job.progress && job.progress.frames && job.progress.frames[0];
      if (job.state === "done") {
        player(job.result);
        const rows = Object.entries(job.result.measured).map(([name, value]) => make("tr", {}, make("td", {}, NAMES[name] || name), make("td", { className: "number" }, shown(value))));
        const video = make("a", { href: fileOf(job, job.result.video), download: "" }, "download the video");
        result.replaceChildren(make("section", { className: "panel", "aria-label": "measures" }, make("h2", {}, "What changed and what stayed"), make("table", {}, make("tr", {}, make("th", { scope: "col" }, "measure"), make("th", { scope: "col" }, "value")), ...rows), make("p", {}, video)));
      } else {
        result.replaceChildren();
        if (frames) player(frames);
      }
      along.replaceChildren(ended(job) ? takeAlong(job) : "");
    },
    event(kind, data) {
      if (kind === "step") status.step(data);
      if (kind === "frames") player(data.value);
      if (kind === "preview") {
        const image = make("img", { src: data.picture, alt: `the frame in the middle at step ${data.step} of ${data.steps}`, className: "preview" });
        const place = picture.querySelector(".three");
        const figure = make("figure", { className: "coming" }, make("figcaption", {}, "edit, as it comes"), make("div", { className: "frame" }, image));
        if (!place) return;
        const old = place.querySelector(".coming");
        if (old) old.replaceWith(figure);
        else place.append(figure);
      }
    },
  };
}
