// Mounts widgets on a page without a kernel: every <div class="lm336-widget" data-widget="NAME" data-src="...">, once it
// comes into view. What stands in the div is shown where scripts do not run, and until the widget is there.
//   data-src="folder"      workers with the folder's model, and with the perfect reader of its stories, answer the widget's messages;
//                          data-recording="file.json" is a trait, `recording`
//   data-src="file.json"   is downloaded first; what is in it are the widget's traits
//   no data-src            the widget has what it needs

const here = name => new URL(name, import.meta.url);

// anywidget's `model`, without a kernel: what a widget sets stays on the page.
function traitModel(traits = {}) {
  const listeners = {};
  return {
    get: key => traits[key],
    set(key, value) { traits[key] = value; listeners[`change:${key}`]?.(); },
    save_changes() {},
    on(name, listener) { listeners[name] = listener; },
  };
}

function workerModel(folder, recording) {   // the same, and its messages are answered by a worker, each made when it is asked first
  const workers = {};
  let hear = () => {};
  const fail = () => hear({ type: "error", message: "The model's program could not be loaded. Is the network there?" });
  return { ...traitModel({ recording, linked: true }),
    on(name, listener) { hear = listener; },
    send(message) {
      const name = ["truth", "expected"].includes(message.type) ? "oracle-worker.js" : "worker.js";
      if (!workers[name]) {
        const worker = workers[name] = new Worker(here(name), { type: "module" });
        worker.onmessage = ({ data }) => [data].flat().forEach(answer => hear(answer));
        worker.onerror = () => { delete workers[name]; fail(); };
      }
      workers[name].postMessage({ ...message, url: folder });
    },
  };
}

async function read(src, onPart) {
  const url = new URL(src, document.baseURI), name = src.split("/").at(-1), { downloadJSON } = await import(here("model.js"));
  const json = await downloadJSON(new URL(".", url).href, name, undefined, onPart);
  if (!(json instanceof Object)) throw new Error(`${name} is damaged: it holds no values for this panel.`);
  return json;
}

async function modelFor({ src, recording }, onPart) {
  if (!src) return traitModel();
  if (src.endsWith(".json")) return traitModel(await read(src, onPart));
  const story = recording && await read(recording).catch(() => undefined);   // without it there is still the model
  return workerModel(`${new URL(src, document.baseURI).href}/`, story);
}

async function mount(el, attempt = 0) {
  const { widget, src } = el.dataset, picture = [...el.childNodes], note = document.createElement("div");
  note.className = "lm336-note";
  note.innerHTML = '<progress aria-label="Loading"></progress><span role="status"></span>';
  const [bar, status] = note.children;
  const say = size => { status.textContent = `Loading ${Math.ceil(size / 1000)} kB`; };
  if (src?.endsWith(".json")) el.append(note);
  try {
    const model = await modelFor(el.dataset, say);
    const { default: module } = await import(here(`${widget}.js${attempt ? `?${attempt}` : ""}`))
      .catch(() => { throw new Error(`${widget}.js could not be loaded.`); });
    el.replaceChildren();
    module.render({ model, el });
  } catch (error) {
    const again = document.createElement("button");
    again.textContent = "Try again";
    again.onclick = () => { el.replaceChildren(...picture); mount(el, attempt + 1); };
    status.textContent = error.constructor === Error ? error.message : `This panel met an error that it did not foresee: ${error.message}.`;
    bar.replaceWith(again);
    el.replaceChildren(...picture, note);
  }
}

const style = document.createElement("link");
style.rel = "stylesheet";
style.href = here("widgets.css");
document.head.append(style);

const watch = new IntersectionObserver(entries => {
  for (const { isIntersecting, target } of entries) if (isIntersecting) { watch.unobserve(target); mount(target); }
}, { rootMargin: "200px" });
document.querySelectorAll(".lm336-widget").forEach(el => watch.observe(el));
