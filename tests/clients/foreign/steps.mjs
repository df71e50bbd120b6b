// What the Node.js scripts share; see steps.py for the lines they print.
export const given = JSON.parse(process.argv[2]);

export const say = (fields) => process.stdout.write(JSON.stringify(fields) + '\n');

export const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export function check(condition, text = '') {
  if (!condition) throw new Error(`not so: ${text}`);
}

export function equal(found, wanted) {
  check(JSON.stringify(found) === JSON.stringify(wanted), `${JSON.stringify(found)} is ${JSON.stringify(wanted)}`);
}

// A library's message alone says little: the server's answer says why.
const textOf = (error) => {
  const answer = error.data ?? error.response?.data;
  return `${error.message} ${answer ? JSON.stringify(answer) : ''}`.trim().slice(0, 300);
};

export async function step(call, run) {
  try {
    const value = await run();
    say({ call, result: 'works' });
    return value;
  } catch (error) {
    say({ call, result: `fails: ${textOf(error)}` });
    return undefined;
  }
}

// Orders one after the other, each again with the same client id until it is answered.
export async function tradeThroughAKill(place) {
  const times = [], texts = new Set(), placed = {};
  let longest = 0;
  say({ ready: true });
  for (let number = 0; number < given.orders; number++) {
    const clientOid = `${given.key}-kill-${number}`;
    const begun = performance.now();
    while (!(clientOid in placed)) {
      try {
        placed[clientOid] = await place(clientOid);
      } catch (error) {
        times.push(performance.now() / 1000);
        texts.add(textOf(error));
        if (times.at(-1) - times[0] > 30) throw error;
        await sleep(50);
      }
    }
    longest = Math.max(longest, (performance.now() - begun) / 1000);
  }
  const span = times.length ? times.at(-1) - times[0] : 0;
  say({ failures: times.length, span, longest, texts: [...texts], placed });
}
