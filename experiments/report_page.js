"use strict";
// The page's script: this file, then report_curves.js and report_dialogues.js, joined by report.py.
// Whatever stands in the data reaches the page as text nodes and attribute values, never as HTML.
// What is chosen lives in the address behind the #, so that a link opens the same view:
//   #method=GOPO&customer=3&compare=PPO&metric=tse

const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

// ---------------------------------------------------------------- building the page

const $ = id => document.getElementById(id);

function fillIn(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  // strings become text nodes
  node.append(...children.flat().filter(child => child !== null && child !== undefined));
  return node;
}

function el(tag, attributes = {}, ...children) {
  return fillIn(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fillIn(document.createElementNS(SVG, tag), attributes, children);
}

const unseen = text => el("span", {class: "hidden-text"}, text);

// ---------------------------------------------------------------- numbers and lists

const isNumber = x => typeof x === "number";
const minus = text => text.replace("-", "−");
const number = (x, digits = 2) => isNumber(x) ? minus(x.toFixed(digits)) : "—";
const short = x => x === null ? "—" : minus(String(Number(x.toPrecision(4))));
const sum = values => values.reduce((a, b) => a + b, 0);
const mean = values => values.length ? sum(values) / values.length : null;
const unique = values => [...new Set(values)];

function options(select, values, chosen, words = value => value) {
  select.replaceChildren(...values.map(value => el("option", {value}, words(value))));
  select.value = values.includes(chosen) ? chosen : values[0] ?? "";
  return select.value;
}

// ---------------------------------------------------------------- the state, in the address

const state = {};
const KEYS = ["metric", "smooth", "off", "method", "outcome", "seed", "customer", "compare"];

// An address without "=" is a link to a part of the page and changes nothing.
function readAddress() {
  const said = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const first = !("off" in state);
  if (said.size || first) {
    for (const key of KEYS) state[key] = key === "off" ? said.getAll(key) : said.get(key) ?? "";
  }
  return said;
}

function writeAddress() {
  const said = new URLSearchParams();
  for (const key of KEYS) {
    const values = [state[key]].flat();
    for (const value of values) {
      if (value) said.append(key, value);
    }
  }
  history.replaceState(null, "", "#" + said);
}
