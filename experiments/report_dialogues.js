// The dialogue browser: lists to choose from, and one dialogue or two, turn by turn.

// ---------------------------------------------------------------- which dialogue

const ANY = "any";
const DIALOGUE_METHODS = unique(DATA.dialogues.map(d => d.method));

// Fills the lists from left to right, each by what stands before it; returns the dialogues left.
function fillLists() {
  // an address that names no dialogue opens the one that is worth reading
  if (!state.method && !state.customer) Object.assign(state, DATA.opening);
  state.method = options($("method"), DIALOGUE_METHODS, state.method);
  const ofMethod = DATA.dialogues.filter(d => d.method === state.method);
  const seeds = unique(ofMethod.map(d => String(d.seed)));
  state.seed = options($("seed"), seeds, state.seed);
  $("seed").parentNode.hidden = seeds.length < 2;
  const ofSeed = ofMethod.filter(d => String(d.seed) === state.seed);

  const ended = outcome => ofSeed.filter(d => outcome === ANY || d.outcome === outcome);
  const outcomes = [ANY, ...unique(ofMethod.map(d => d.outcome))];
  const counted = outcome => `${outcome} (${ended(outcome).length})`;
  state.outcome = options($("outcome"), outcomes, state.outcome, counted);
  const found = ended(state.outcome);

  const customers = found.map(d => d.customer);
  const inWords = customer => {
    const d = found.find(d => d.customer === customer);
    const said = isNumber(d.satisfaction) ? `${d.satisfaction} stars` : `TSE ${number(d.tse)}`;
    return `${customer}: ${said}, ${d.turns.length} turns`;
  };
  state.customer = options($("customer"), customers, state.customer, inWords);
  const others = ["", ...DIALOGUE_METHODS.filter(method => method !== state.method)];
  state.compare = options($("compare"), others, state.compare, method => method || "nothing");
  return found;
}

// The dialogue of another method with the same customer, of the same seed if there is one.
function compared(first) {
  const met = d => d.method === state.compare && d.customer === first.customer;
  const others = DATA.dialogues.filter(met);
  return others.find(d => d.seed === first.seed) ?? others[0] ?? null;
}

// What a screen reader is told after a choice.
function announcement(first, second) {
  if (!first) return `No dialogue of ${state.method} ended so; choose another end.`;
  const said = `${state.method}, customer ${first.customer}: ${first.outcome}.`;
  if (!state.compare) return said;
  if (!second) return `${said} ${state.compare} did not meet this customer here.`;
  return `${said} ${state.compare}: ${second.outcome}.`;
}

function showDialogues() {
  const found = fillLists();
  $("before").disabled = $("customer").selectedIndex <= 0;
  $("after").disabled = $("customer").selectedIndex >= found.length - 1;
  const first = found.find(d => d.customer === state.customer);
  const second = first && state.compare ? compared(first) : undefined;
  $("played").replaceChildren(...(first ? columns(first, second) : []));
  $("played").className = state.compare ? "two" : "";
  $("said").textContent = announcement(first, second);
}

function startDialogues() {
  for (const id of ["method", "outcome", "seed", "customer", "compare"]) {
    $(id).onchange = () => {
      state[id] = $(id).value;
      showDialogues();
      writeAddress();
    };
  }
  for (const [id, by] of [["before", -1], ["after", 1]]) {
    $(id).onclick = () => {
      const customers = $("customer");
      state.customer = customers.options[customers.selectedIndex + by].value;
      showDialogues();
      writeAddress();
    };
  }
}

// ---------------------------------------------------------------- one dialogue

function column(d) {
  if (!d) return [el("p", {class: "card end mute"}, "No dialogue with this customer.")];
  return [summary(d), ...d.turns.map((t, i) => card(d, t, i)), ending(d)];
}

// One column, or two whose turns stand next to each other.  A second of null has no such dialogue.
function columns(first, second) {
  if (second === undefined) return column(first);
  const [left, right] = [column(first), column(second)];
  const empty = () => el("div", {class: "empty"});
  const both = [];
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    both.push(left[i] ?? empty(), right[i] ?? empty());
  }
  return both;
}

const pair = (name, ...what) => el("div", {class: "pair"},
  el("span", {}, name),
  el("div", {}, ...what));

const when = (d, i) => isNumber(d.N?.[i]) ? `turn ${d.N[i]}` : "never";

function summary(d) {
  const moods = [d.mood ?? null, ...d.turns.map(t => t.mood ?? null)];
  const noted = moods.some(m => m !== null);
  const tasks = `requirement ${when(d, 0)}, information ${when(d, 1)}, guidance ${when(d, 2)}`;
  const who = `customer ${d.customer}, seed ${d.seed}`;
  const sign = d.success ? "✓" : "✗";
  return el("section", {class: "card", "aria-label": `${d.method}, customer ${d.customer}`},
    el("header", {}, el("h3", {}, d.method), el("span", {class: "mute small"}, who)),
    pair("ended", `${sign} ${d.outcome}, after ${d.turns.length} turns`),
    pair("tasks", `${tasks}; TSE ${number(d.tse, 3)}`),
    markOf(d),
    charged(d),
    whoItIs(d),
    pair("mood 0–1", noted ? spark(moods) : "not recorded"));
}

// The customer's own mark.
function markOf(d) {
  if (!isNumber(d.satisfaction)) return null;
  const stars = "★".repeat(d.satisfaction) + "☆".repeat(5 - d.satisfaction);
  return pair("mark", el("span", {"aria-hidden": "true"}, stars), ` ${d.satisfaction} of 5 stars`);
}

// Whether a voucher was issued, and what one cost at the end of training.
function charged(d) {
  const turn = d.turns.findIndex(t => t.decision === "voucher");
  if (!d.turns.some(t => t.decision)) return null;
  const given = turn < 0 ? "none" : `issued in turn ${turn + 1}`;
  const cost = isNumber(d.price)
    ? `in the last step of training one cost λ ${number(d.price, 3)}, ${number(4 * d.price)} stars`
    : "nothing was learned under a price";
  return pair("voucher", `${given}; ${cost}`);
}

// Who the customer was, which no agent is told.
function whoItIs(d) {
  const known = Object.entries(d.customer_is ?? {});
  if (!known.length) return null;
  return pair("customer", `hidden from the agent: ${known.map(([k, v]) => `${k}: ${v}`).join("; ")}`);
}

// The mood before the first turn (where it is known) and after each, between 0 and 1.
function spark(moods) {
  const x = i => 4 + 136 * i / Math.max(1, moods.length - 1);
  const y = mood => 30 - 26 * mood;
  const known = moods.map((m, i) => [m, i]).filter(([m]) => m !== null);
  const border = m => svg("line", {x1: 4, x2: 140, y1: y(m), y2: y(m)});
  const points = known.map(([m, i]) => `${x(i)},${y(m)}`).join(" ");
  const inWords = known.map(([m]) => number(m)).join(", ");
  const image = svg("svg",
    {
      class: "spark",
      viewBox: "0 0 144 34",
      role: "img",
      "aria-label": `mood over the turns: ${inWords}`,
    },
    border(0),
    border(1),
    svg("polyline", {points}),
    known.map(([m, i]) => svg("circle", {cx: x(i), cy: y(m), r: 2.2})));
  return el("span", {}, image, ` ${number(known[0][0])} → ${number(known.at(-1)[0])}`);
}

function ending(d) {
  const last = d.last
    ? el("p", {class: "say"}, el("b", {}, "customer, at the end"), d.last)
    : null;
  return el("div", {class: "card end"},
    last,
    el("p", {class: "mute small"}, `${d.method}: ${d.outcome}`));
}

// ---------------------------------------------------------------- one turn

function chip(text, mark, meaning, good) {
  return el("span", {class: `chip ${good ? "hit" : "miss"}`, title: meaning},
    el("b", {"aria-hidden": "true"}, mark),
    " ",
    text,
    unseen(` (${meaning})`));
}

function chips(name, marked) {
  return pair(name, marked.length ? el("div", {class: "chips"}, ...marked) : "(none)");
}

// The skills of one list, each marked with where it stands in the other.
function marked(list, other, same, elsewhere, mark, absent) {
  return list.map((skill, i) => {
    if (other[i] === skill) return chip(skill, "=", same, true);
    if (other.includes(skill)) return chip(skill, "↕", elsewhere, true);
    return chip(skill, mark, absent, false);
  });
}

// The agent's skills and the teacher's, each marked with what became of it.
function skillRows(t) {
  const own = t.skills ?? [];
  const teacher = t.teacher;
  if (!teacher) {
    const said = own.join(", ") || "(none)";
    return [pair("skills", said), pair("teacher", "nobody labelled this turn")];
  }
  const list = "in the teacher’s list";
  const [same, elsewhere] = [`same place ${list}`, `another place ${list}`];
  const ours = marked(own, teacher, same, elsewhere, "+", `not ${list}`);
  const [hit, moved] = ["chosen, same place", "chosen, another place"];
  const theirs = marked(teacher, own, hit, moved, "−", "missed");
  return [chips("skills", ours), chips("teacher", theirs)];
}

// What was perceived, and what was true.
function perception(name, perceived, truth) {
  if (!perceived && !truth) return null;
  if (!perceived) return pair(name, `${truth} (in truth)`);
  if (!truth) return pair(name, `${perceived} (the truth is not known)`);
  if (perceived === truth) return chips(name, [chip(perceived, "✓", "perceived rightly", true)]);
  const wrong = chip(perceived, "✗", "perceived wrongly", false);
  return chips(name, [wrong, el("span", {class: "mute"}, `in truth ${truth}`)]);
}

// A bar for the size of a reward; another colour below 0.
function bar(value) {
  const width = 100 * Math.min(1, Math.abs(value ?? 0));
  const part = value < 0 ? "below" : "part";
  return svg("svg", {viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true"},
    svg("rect", {class: "all", width: 100, height: 8}),
    svg("rect", {class: part, width, height: 8}));
}

function bars(rewards) {
  const scores = rewards.S ?? [];
  const rows = [
    ["R^E skills", rewards.R_E],
    ...scores.map((score, i) => [`S${i + 1} ${DATA.dimensions[i] ?? ""}`, score]),
    ["R^A reply", rewards.R_A],
    ["R_t joint", rewards.R_t],
  ];
  return drawn(rows);
}

function drawn(rows) {
  const line = ([name, value]) => el("div", {},
    el("span", {}, name),
    bar(value),
    el("span", {}, number(value)));
  return el("div", {class: "bars"}, rows.map(line));
}

// The marks of the process judge and their weighted mean, Eq. 6.
function credits(process) {
  const rows = [...Object.entries(process.S), ["R_P process", process.credit]];
  return drawn(rows);
}

// d_t of a turn: a voucher, or words alone.
function decided(t, d) {
  if (!t.decision) return null;
  const cost = t.decision === "voucher" && isNumber(d.price) ? ` (λ ${number(d.price, 3)})` : "";
  return pair("decision", el("span", {class: `decision ${t.decision}`}, t.decision), cost);
}

function constraint(t) {
  const lines = [];
  if (t.must_say?.length) lines.push(`must say: ${t.must_say.join(" · ")}`);
  if (t.dropped?.length) lines.push(`not said, it clashes: ${t.dropped.join(" · ")}`);
  const forbidden = t.must_not_say?.length;
  lines.push(forbidden ? `must not say: ${forbidden} phrases (below)` : "nothing is forbidden");
  return pair("constraint", lines.map(line => el("div", {}, line)));
}

// B_t, the forbidden phrases, and the reply before its slots were filled.
function seen(t) {
  const fact = ([slot, value]) => el("tr", {}, el("th", {scope: "row"}, slot), el("td", {}, value));
  const facts = Object.entries(t.context ?? {}).map(fact);
  const known = facts.length
    ? el("table", {}, el("tbody", {}, facts))
    : el("p", {}, "The shop knew no facts yet.");
  const forbidden = t.must_not_say?.length
    ? el("p", {}, `must not say: ${t.must_not_say.join(" · ")}`)
    : null;
  const template = t.template ? el("p", {}, `with slots: ${t.template}`) : null;
  return el("details", {class: "more"},
    el("summary", {}, "what the agent saw: facts, forbidden phrases, reply with slots"),
    known,
    forbidden,
    template);
}

function breaks(t) {
  if (!t.violations?.length) return null;
  return el("p", {class: "differs"}, `✗ breaks the constraint: ${t.violations.join(" · ")}`);
}

function card(d, t, i) {
  const mood = isNumber(t.mood) ? `mood after it ${number(t.mood)}` : "";
  return el("article", {class: "card", "aria-label": `turn ${i + 1}, ${d.method}`},
    el("header", {}, el("h4", {}, `turn ${i + 1}`), el("span", {class: "mute small"}, mood)),
    el("p", {class: "say"}, el("b", {}, "customer"), t.user),
    perception("intent", t.perceived?.intent, t.truth?.intent),
    perception("emotion", t.perceived?.emotion, t.truth?.emotion),
    skillRows(t),
    decided(t, d),
    t.must_say || t.must_not_say ? constraint(t) : null,
    el("p", {class: "say agent"}, el("b", {}, d.method), t.reply ?? "—"),
    breaks(t),
    t.process ? credits(t.process) : null,
    t.rewards || !t.process ? bars(t.rewards ?? {}) : null,
    seen(t));
}

// ---------------------------------------------------------------- start

function show() {
  const said = readAddress();
  if (LINES.length) showCurves();
  if (DATA.dialogues.length) showDialogues();
  return said;
}

function openForPrint() {
  document.querySelectorAll("details:not(.more)").forEach(d => { d.open = true; });
}

if (LINES.length) startCurves();
if (DATA.dialogues.length) startDialogues();
const asked = show();
if (asked.has("customer") || asked.has("method")) $("dialogues").scrollIntoView();
else if (asked.has("metric")) $("curves").scrollIntoView();
window.addEventListener("hashchange", show);
window.addEventListener("beforeprint", openForPrint);
