"use strict";

const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/chat`);
const messages = document.getElementById("messages");
const text = document.getElementById("text");

function show(line) {
  const item = document.createElement("li");
  item.textContent = line;
  messages.append(item);
}

socket.onmessage = (event) => show(event.data);
socket.onclose = () => show("(the server has gone)");
document.getElementById("form").onsubmit = (event) => {
  event.preventDefault();
  socket.send(text.value);
  text.value = "";
};
