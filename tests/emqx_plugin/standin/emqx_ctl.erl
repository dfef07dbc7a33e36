-module(emqx_ctl).
-export([register_command/3, unregister_command/1, print/2, usage/1, run/1]).

register_command(Command, Function, []) ->
    standin:put({command, Command}, Function).

unregister_command(Command) ->
    standin:put({command, Command}, none).

print(Format, Arguments) ->
    standin:put(printed, [standin:get(printed, ""), io_lib:format(Format, Arguments)]).

usage(Lines) ->
    [print("~-48s# ~s~n", [Command, Text]) || {Command, Text} <- Lines],
    ok.

%% Runs `emqx ctl lwm2m ...`, and returns the answer with what was printed.
run(Arguments) ->
    standin:put(printed, ""),
    {Module, Function} = standin:get({command, lwm2m}, none),
    Answer = Module:Function(Arguments),
    {Answer, unicode:characters_to_list(standin:get(printed, ""))}.
