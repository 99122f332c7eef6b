// Mounts widgets on a page without a kernel: every <div class="lm336-widget" data-widget="sampler" data-src="folder">,
// once it comes into view. What stands in the div is shown where scripts do not run.

const here = name => new URL(name, import.meta.url);

function pageModel(folder) {           // anywidget's `model`, answered by a worker instead of a kernel
  let worker = null, hear = () => {};
  const fail = () => hear({ type: "error", message: "The model's program could not be loaded. Is the network there?" });
  return {
    on(name, listener) { hear = listener; },
    send(message) {
      if (!worker) {
        worker = new Worker(here("worker.js"), { type: "module" });
        worker.onmessage = ({ data }) => hear(data);
        worker.onerror = () => { worker = null; fail(); };
      }
      worker.postMessage(message.type === "load" ? { ...message, url: folder } : message);
    },
  };
}

async function mount(el) {
  const { widget, src } = el.dataset;
  try {
    const { default: module } = await import(here(`${widget}.js`));
    el.replaceChildren();
    module.render({ model: pageModel(new URL(`${src}/`, document.baseURI).href), el });
  } catch (error) {
    el.append(`This panel could not be loaded (${error.message}); reload the page to try again.`);
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
