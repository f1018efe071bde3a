// The page of a server: choose a model, give it images, and read its predictions.

import { offerCamera } from "./camera.js";
import { Card, reason } from "./card.js";
import { forgetToken, hasToken, keepToken, models } from "./client.js";
import { offerLanguages, text, translate, whole } from "./language.js";

const find = (id) => document.getElementById(id);
const page = { models: [], model: null, chosen: null, limits: null, showsAttention: false, showsMasks: true };
const cards = [];
const numbers = { photo: 0, pasted: 0 };
let trouble = null;
let said = [];

// --- Images -------------------------------------------------------------------------------------
function add(files) {
  if (!page.model) return;
  for (const { file, name } of files) {
    const card = new Card(file, name, page, told, remove);
    cards.push(card);
    find("cards").prepend(card.element);
  }
  showCount();
}

function remove(card) {
  const place = card.element.nextElementSibling ?? card.element.previousElementSibling;
  cards.splice(cards.indexOf(card), 1);
  card.close();
  showCount();
  (place?.querySelector(".remove") ?? find("files")).focus();
}

function showCount() {
  find("none").hidden = cards.length > 0;
  find("clear").hidden = cards.length < 2;
}

// Tell a screen reader of answers: one by its content, several by their number.
function told(card) {
  if (card.failure?.status === 401) load(); // the token was changed
  said.push(card);
  if (cards.some((each) => !each.answer && !each.failure)) return;
  const known = said.filter((each) => cards.includes(each));
  const failed = known.filter((each) => each.failure).length;
  find("status").textContent = known.length === 1
    ? text("said", { name: card.name, best: card.summary })
    : text("saidMany", { done: known.length - failed, failed });
  said = [];
}

const ofFiles = (files) => [...files].map((file) => ({ file, name: file.name }));

function offerFiles() {
  const zone = find("zone");
  find("files").addEventListener("change", (event) => {
    add(ofFiles(event.target.files));
    event.target.value = ""; // the same file may be chosen again
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) zone.classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (!event.dataTransfer.files.length) find("status").textContent = text("dropNothing");
    add(ofFiles(event.dataTransfer.files));
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    add(files.map((file) => ({ file, name: text("pasted", { number: (numbers.pasted += 1) }) })));
  });
  offerCamera((file) => {
    add([{ file, name: text("photo", { number: (numbers.photo += 1) }) }]);
  });
  find("clear").addEventListener("click", () => {
    for (const card of cards.splice(0)) card.close();
    showCount();
    find("files").focus();
  });
}

// --- Models -------------------------------------------------------------------------------------
async function load() {
  trouble = null;
  try {
    const { content } = await models();
    page.models = content.models;
    page.limits = content.limits;
    find("access").hidden = true;
    choose(page.models.find((each) => each.name === page.chosen) ?? page.models[0]);
  } catch (error) {
    page.model = null;
    trouble = { error, isWrong: error.status === 401 && hasToken() };
    if (error.status === 401) forgetToken();
  }
  show();
  if (trouble?.error.status === 401) find("token").focus();
}

function choose(model) {
  page.model = model;
  page.chosen = model.name;
  for (const card of cards) card.predict();
  show();
}

function show() {
  const status = trouble?.error.status;
  find("work").hidden = !page.model;
  find("access").hidden = status !== 401;
  // A missing token is no error: the form says what is needed.
  find("trouble").hidden = !trouble || (status === 401 && !trouble.isWrong);
  if (trouble) {
    const line = trouble.isWrong ? text("tokenWrong") : reason(trouble.error);
    find("trouble").querySelector("p").textContent = line;
    find("trouble").querySelector("button").hidden = status === 401;
  }
  if (page.model) showModel(page.model);
}

function showModel(model) {
  const options = page.models.map((each) => new Option(each.name, each.name));
  find("model").replaceChildren(...options);
  find("model").value = model.name;
  const [, height, width] = model.input;
  const about = text("about", { task: text(model.task), classes: whole(model.classes), height, width });
  find("about").textContent = model.has_attention ? about : `${about} ${text("noAttention")}`;
  find("shows-attention").hidden = !model.has_attention;
  find("shows-masks").hidden = model.task !== "segmentation";
}

function showCards() {
  for (const card of cards) card.show();
}

function offerModels() {
  find("model").addEventListener("change", (event) => {
    choose(page.models.find((each) => each.name === event.target.value));
  });
  find("attention").addEventListener("change", (event) => {
    page.showsAttention = event.target.checked;
    showCards();
    for (const card of cards) card.attendLater();
  });
  find("masks").addEventListener("change", (event) => {
    page.showsMasks = event.target.checked;
    showCards();
  });
  find("access").addEventListener("submit", (event) => {
    event.preventDefault();
    keepToken(find("token").value.trim());
    find("token").value = "";
    load();
  });
  find("trouble").querySelector("button").addEventListener("click", load);
}

offerLanguages(() => {
  show();
  showCards();
});
offerFiles();
offerModels();
translate();
// A reloaded page keeps the state of its boxes.
page.showsAttention = find("attention").checked;
page.showsMasks = find("masks").checked;
load();
