// What browser.py's measurements do with a worker: they ask it, and watch how long the page's own thread is kept waiting.
export const asks = worker => (message, until, each = () => {}) => new Promise((resolve, reject) => {
  worker.onmessage = ({ data }) => [data].flat().forEach(answer => {
    each(answer);
    if (answer.type === "error") reject(Error(answer.message));
    else if (until(answer)) resolve(answer);
  });
  worker.postMessage(message);
});

// From now on a timer of 10 ms; the function that it gives ends it: the longest time, in ms, that the thread was kept from it.
export function watchStalls() {
  let last = performance.now(), longest = 0;
  const timer = setInterval(() => {
    const now = performance.now();
    longest = Math.max(longest, now - last - 10);
    last = now;
  }, 10);
  return () => {
    clearInterval(timer);
    return longest;
  };
}
