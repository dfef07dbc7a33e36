%% Lines of the program's output become events of EMQX's logger. The program writes JSON; what it says before its log
%% starts is text.
-module(lwm2m_gateway_log).

-export([forward/1, message/1]).

%% Logs a line, and returns its message.
-spec forward(binary()) -> binary().
forward(Line) ->
    {Level, Message, Fields} = parse(Line),
    logger:log(Level, #{msg => lwm2m_gateway, text => Message, fields => Fields}),
    Message.

%% Returns the message of a line.
-spec message(binary()) -> binary().
message(Line) ->
    {_, Message, _} = parse(Line),
    Message.

parse(Line) ->
    try emqx_utils_json:decode(Line, [return_maps]) of
        #{<<"level">> := Level, <<"message">> := Message} = Event ->
            {level(Level), Message, maps:without([<<"level">>, <<"message">>, <<"timestamp">>], Event)};
        _ ->
            {text_level(Line), Line, #{}}
    catch
        _:_ -> {text_level(Line), Line, #{}}
    end.

level(Level) ->
    maps:get(Level, #{<<"ERROR">> => error, <<"WARN">> => warning, <<"INFO">> => info}, debug).

%% "lwm2m-gateway: ..." is how the program says why it cannot start.
text_level(Line) ->
    case binary:match(Line, [<<"lwm2m-gateway: ">>, <<"panicked">>]) of
        nomatch -> info;
        _ -> error
    end.
